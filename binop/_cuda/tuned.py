"""The table of measured choices, tuned.json, which the plan consults before its heuristic.

An entry holds for one size of device, one geometry and one output. ``python -m binop bench --tune``
writes the table. No tensors and no CuPy here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from binop._cuda.choice import Choice
from binop._cuda.conv_call import ConvCall
from binop._cuda.launches import Device
from binop.geometry import Conv2dGeometry

PATH = Path(__file__).with_name("tuned.json")
# Raised when a reader of older files would misunderstand newer ones, or the reverse.
FORMAT = 1

_PAIRS = ("kernel", "stride", "padding", "dilation")


@dataclass(frozen=True)
class Key:
    """What a choice was measured for."""

    capability: tuple[int, int]
    multiprocessors: int
    geometry: Conv2dGeometry
    out: str
    channels_last: bool
    pad_value: int

    @classmethod
    def of(cls, geometry: Conv2dGeometry, call: ConvCall, device: Device) -> Key:
        return cls(
            device.capability,
            device.multiprocessors,
            geometry,
            call.out,
            call.channels_last,
            call.pad_value,
        )

    @property
    def call(self) -> ConvCall:
        return ConvCall(self.out, self.pad_value, self.channels_last, alignment=16)


@dataclass(frozen=True)
class Entry:
    """The fastest choice, its time, and that of the heuristic's choice in the same run."""

    key: Key
    choice: Choice
    us: float
    heuristic_us: float


def find(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> Choice | None:
    """The measured choice; None where nobody measured, or the heuristic's was the fastest."""
    if call.residual is not None:
        return None
    return _table().get(Key.of(geometry, call, device))


@cache
def _table() -> dict[Key, Choice]:
    """Read when the first convolution is planned."""
    return {entry.key: entry.choice for entry in load(PATH)}


def load(path: Path) -> list[Entry]:
    """Raises ValueError for a file that is not such a table."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {fields['format']}")
        return [_entry(each) for each in fields["entries"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a table of choices: {error!r}") from None


def save(entries: Iterable[Entry], path: Path) -> None:
    """One line an entry, in an order of its own, so that changes of the file are readable."""
    lines = sorted(f"  {json.dumps(_fields(entry))}" for entry in entries)
    text = ",\n".join(lines) + "\n" if lines else ""
    path.write_text(f'{{\n "format": {FORMAT},\n "entries": [\n{text} ]\n}}\n', encoding="utf-8")


def _fields(entry: Entry) -> dict[str, Any]:
    key = entry.key
    return {
        "capability": key.capability,
        "multiprocessors": key.multiprocessors,
        **asdict(key.geometry),
        "out": key.out,
        "channels_last": key.channels_last,
        "pad_value": key.pad_value,
        "choice": str(entry.choice),
        "us": round(entry.us, 2),
        "heuristic_us": round(entry.heuristic_us, 2),
    }


def _entry(fields: dict[str, Any]) -> Entry:
    sizes = {name: fields.pop(name) for name in Conv2dGeometry.__dataclass_fields__}
    geometry = Conv2dGeometry(**sizes | {name: _pair(sizes[name]) for name in _PAIRS})
    choice, us, heuristic_us = (fields.pop(name) for name in ("choice", "us", "heuristic_us"))
    capability = _pair(fields.pop("capability"))
    key = Key(capability=capability, geometry=geometry, **fields)
    return Entry(key, Choice.parse(choice), us, heuristic_us)


def _pair(values: list[int]) -> tuple[int, int]:
    first, second = values
    return first, second
