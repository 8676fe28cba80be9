"""What a run found, and its JSON form. Needs no device: results are rendered elsewhere."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Raised when a reader of older files would misunderstand newer ones, or the reverse.
SCHEMA = 1


@dataclass(frozen=True)
class Row:
    """One contender on one case. Times are microseconds a call; ``low_us`` and ``high_us`` are
    the quartiles. A contender that failed has its message in ``error`` and no times."""

    contender: str
    ours: bool
    bytes: int | None = None
    ops: int | None = None
    arithmetic: str | None = None
    median_us: float | None = None
    low_us: float | None = None
    high_us: float | None = None
    rounds: int | None = None
    calls_per_sample: int | None = None
    # Distinct output memory that a sample writes: under the cache size, outputs stay in cache.
    rotated_bytes: int | None = None
    # Of the multiprocessors at the end of a sample, the median; on CUDA.
    clock_mhz: float | None = None
    floor_us: float | None = None
    bound: str | None = None
    share_of_floor: float | None = None
    # Median of the peer over the median of this one.
    speedup: float | None = None
    error: str | None = None
    # Kernels of one call: name, launches, us; most time first. On CUDA, for networks.
    kernels: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Group:
    """One case: contenders that were timed in turns. ``peer`` is whom ``speedup`` refers to."""

    case: str
    kind: str
    shape: str
    threads: int | None
    peer: str | None
    rows: list[Row]


@dataclass(frozen=True)
class Ceiling:
    """``copy`` in bytes/s (read plus written), the others in operations/s of that arithmetic."""

    name: str
    value: float
    source: str
    threads: int | None = None


@dataclass(frozen=True)
class Result:
    """A run: ``machine`` and ``conditions`` are facts by name, as they are to be shown."""

    name: str
    date: str
    machine: dict[str, Any]
    conditions: dict[str, Any]
    ceilings: list[Ceiling]
    groups: list[Group]
    schema: int = SCHEMA

    @property
    def failures(self) -> list[str]:
        """``case: contender: message`` of every contender that failed."""
        return [
            f"{group.case}{threads_suffix(group.threads)}: {row.contender}: {row.error}"
            for group in self.groups
            for row in group.rows
            if row.error is not None
        ]

    def ceiling(self, name: str, threads: int | None = None) -> float | None:
        return find_ceiling(self.ceilings, name, threads)


def threads_suffix(threads: int | None) -> str:
    """How a thread count is told beside a case's name; nothing on a GPU."""
    return "" if threads is None else f" (threads: {threads})"


def find_ceiling(ceilings: list[Ceiling], name: str, threads: int | None) -> float | None:
    """The value of a ceiling for a thread count, or None where there is none."""
    for ceiling in ceilings:
        if ceiling.name == name and ceiling.threads == threads:
            return ceiling.value
    return None


def slug(text: str) -> str:
    """``text`` as a file name: lower case, runs of anything else become one dash."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def to_json(result: Result) -> str:
    return json.dumps(asdict(result), indent=1) + "\n"


def from_json(text: str) -> Result:
    fields = json.loads(text)
    if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
        found = fields.get("schema") if isinstance(fields, dict) else type(fields).__name__
        raise ValueError(f"result file: expected schema {SCHEMA}, got {found}")
    fields["ceilings"] = [Ceiling(**ceiling) for ceiling in fields["ceilings"]]
    fields["groups"] = [
        Group(**{**group, "rows": [Row(**row) for row in group["rows"]]})
        for group in fields["groups"]
    ]
    return Result(**fields)


def load(path: Path) -> Result:
    return from_json(path.read_text(encoding="utf-8"))


def save(result: Result, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(result), encoding="utf-8")
