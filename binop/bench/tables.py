"""What the tables say: from a result to rows of text. How they look is ``writers.py``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from binop.bench import cpu_tables
from binop.bench.by_kernel import MMA
from binop.bench.parts import part_of
from binop.bench.result import Group, Result, Row
from binop.bench.text import Table, number, percent, rate

# The contenders of the tables that a README shows; ``full`` has them all.
_BRIEF = (
    "conv2d-fp32-nchw",
    "conv2d-fp32",
    "conv2d-bf16",
    "simulated-compiled",
    "packed-to-packed",
    "packed-to-float",
    "layer",
    "float-to-float",
    "float-to-float-nchw",
)


def _layers(result: Result) -> Table:
    title = "Layers: us (speed-up over the peer, share of the floor)"
    return _by_contender(result, "layer", title, _brief_cell)


def _latency(result: Result) -> Table:
    title = "Latency, batch 1: us (speed-up, share of the floor)"
    return _by_contender(result, "latency", title, _brief_cell)


def _clocks(result: Result) -> Table:
    title = "Layers: us (speed-up over the peer, clock at the end of a sample)"
    return _by_contender(result, "layer", title, _clock_cell)


def _by_contender(
    result: Result, kind: str, title: str, cell: Callable[[Row | None], str]
) -> Table:
    groups = [group for group in result.groups if group.kind == kind]
    present = {row.contender for group in groups for row in group.rows}
    names = [name for name in _BRIEF if name in present]
    threads = [] if result.machine["kind"] == "cuda" else ["threads"]
    rows = []
    for group in groups:
        by_name = {row.contender: row for row in group.rows}
        cells = [cell(by_name.get(name)) for name in names]
        count = [str(group.threads)] if threads else []
        rows.append([group.case, group.shape, *count, *cells])
    return Table(title, ["case", "N,C,HxW -> O, kernel / stride", *threads, *names], rows)


def _brief_cell(row: Row | None) -> str:
    if row is None or not row.ours:
        return _cell(row, [])
    share = [] if row.share_of_floor is None else [percent(row.share_of_floor)]
    return _cell(row, _speedup(row) + share)


def _clock_cell(row: Row | None) -> str:
    if row is None:
        return _cell(row, [])
    clock = [] if row.clock_mhz is None else [f"{number(row.clock_mhz)} MHz"]
    return _cell(row, (_speedup(row) if row.ours else []) + clock)


def _speedup(row: Row) -> list[str]:
    return [] if row.speedup is None else [f"{number(row.speedup)}x"]


def _cell(row: Row | None, notes: list[str]) -> str:
    if row is None:
        return "-"
    if row.median_us is None:
        return "failed"
    return f"{number(row.median_us)} ({', '.join(notes)})" if notes else number(row.median_us)


def _pack(result: Result) -> Table:
    rows = []
    for group in result.groups:
        copy = result.ceiling("copy", group.threads)
        for row in group.rows if group.kind == "pack" else []:
            head = [group.case, group.shape, _threads(group), row.contender]
            if row.median_us is None or row.bytes is None:
                rows.append([*head, "failed", "-", "-"])
                continue
            bandwidth = row.bytes / (row.median_us * 1e-6)
            share = percent(bandwidth / copy) if copy else "-"
            rows.append([*head, number(row.median_us), number(bandwidth / 1e9), share])
    columns = ["case", "N,C,HxW", "threads", "contender", "us", "GB/s", "of copy bandwidth"]
    return Table("pack: reads floats, writes bits", columns, rows)


def _overhead(result: Result) -> Table:
    rows = [
        [
            _threads(group),
            row.contender,
            number(row.median_us) if row.median_us else "failed",
            f"{number(1 / row.speedup)}x" if row.speedup else "-",
        ]
        for group in result.groups
        if group.kind == "overhead"
        for row in group.rows
    ]
    shapes = [group.shape for group in result.groups if group.kind == "overhead"]
    title = f"Host time of one eager call ({shapes[0] if shapes else 'not measured'})"
    return Table(title, ["threads", "contender", "us", "of conv2d's"], rows)


def _mma(result: Result) -> Table:
    peak = result.ceiling(MMA)
    rows = []
    for group in result.groups:
        for row in group.rows:
            if row.arithmetic == MMA and row.median_us and row.ops:
                speed = row.ops / (row.median_us * 1e-6)
                share = percent(speed / peak) if peak else "-"
                cells = [row.contender, number(row.median_us), rate(speed), share]
                rows.append([group.case, group.shape, *cells])
    columns = ["case", "N,C,HxW -> O, kernel / stride", "contender", "us", "rate"]
    return Table("conv_mma beside the peak of mma.sync", [*columns, "of the peak"], rows)


def _networks(result: Result) -> Table:
    groups = [group for group in result.groups if group.kind == "network"]
    names = list(dict.fromkeys(row.contender for group in groups for row in group.rows))
    rows = []
    for group in groups:
        by_name = {row.contender: row for row in group.rows}
        cells = [_brief_cell(by_name.get(name)) for name in names]
        rows.append([group.case, group.shape, _threads(group), *cells])
    title = "Networks, compiled: us (speed-up over the float network)"
    return Table(title, ["case", "N,C,HxW", "threads", *names], rows)


# Kernels of a network that a table lists; the file has them all.
_MOST_KERNELS = 8


def _kernels(result: Result) -> Table:
    rows = []
    for group in result.groups:
        for row in group.rows:
            total = sum(kernel["us"] for kernel in row.kernels or [])
            for kernel in (row.kernels or [])[:_MOST_KERNELS]:
                share = percent(kernel["us"] / total)
                cells = [kernel["kernel"][:60], str(kernel["launches"]), number(kernel["us"])]
                rows.append([group.case, row.contender, *cells, share])
    columns = ["case", "contender", "kernel", "launches", "us", "of all kernels"]
    return Table("Where networks spend their time, by kernel", columns, rows)


def _parts(result: Result) -> Table:
    rows = []
    for group in result.groups:
        for row in group.rows:
            total = sum(kernel["us"] for kernel in row.kernels or [])
            launches: Counter[str] = Counter()
            times: Counter[str] = Counter()
            for kernel in row.kernels or []:
                launches[part_of(kernel["kernel"])] += kernel["launches"]
                times[part_of(kernel["kernel"])] += kernel["us"]
            for part, us in times.most_common():
                cells = [part, str(launches[part]), number(us), percent(us / total)]
                rows.append([group.case, row.contender, *cells])
    columns = ["case", "contender", "part", "launches", "us", "of all kernels"]
    return Table("Where networks spend their time, by what kernels compute", columns, rows)


def _ceilings(result: Result) -> Table:
    rows = [
        [
            ceiling.name,
            "-" if ceiling.threads is None else str(ceiling.threads),
            f"{number(ceiling.value / 1e9)} GB/s"
            if ceiling.name == "copy"
            else rate(ceiling.value),
            ceiling.source,
        ]
        for ceiling in result.ceilings
    ]
    if not any(ceiling.name == "b1" for ceiling in result.ceilings):
        missing = "unknown on this device: floors of b1 rows count bytes only"
        rows.append(["b1", "-", "none", missing])
    return Table("Ceilings", ["ceiling", "threads", "value", "source"], rows)


def _provenance(result: Result) -> Table:
    facts = {"date": result.date, **result.machine, **result.conditions}
    rows = [[name, "unknown" if value is None else str(value)] for name, value in facts.items()]
    return Table("Measured on", ["what", "value"], rows)


def _full(result: Result) -> Table:
    rows = [_full_row(group, row) for group in result.groups for row in group.rows]
    columns = ["case", "threads", "contender", "us", "quartiles", "speed-up", "rate"]
    return Table("Every contender", [*columns, "of floor", "bound", "calls x rounds", "MHz"], rows)


def _full_row(group: Group, row: Row) -> list[str]:
    head = [group.case, _threads(group), row.contender]
    if row.median_us is None or row.low_us is None or row.high_us is None:
        return [*head, "failed", "-", "-", "-", "-", row.error or "", "-", "-"]
    return [
        *head,
        number(row.median_us),
        f"{number(row.low_us)} .. {number(row.high_us)}",
        f"{number(row.speedup)}x" if row.speedup is not None else "-",
        rate(row.ops / (row.median_us * 1e-6)) if row.ops else "-",
        percent(row.share_of_floor) if row.share_of_floor is not None else "-",
        row.bound or "-",
        f"{row.calls_per_sample} x {row.rounds}",
        number(row.clock_mhz) if row.clock_mhz is not None else "-",
    ]


def _threads(group: Group) -> str:
    return "-" if group.threads is None else str(group.threads)


# By the name that a README block asks for.
TABLES: dict[str, Callable[[Result], Table]] = {
    "provenance": _provenance,
    "ceilings": _ceilings,
    "layers": _layers,
    "latency": _latency,
    "clocks": _clocks,
    "pack": _pack,
    "overhead": _overhead,
    "mma": _mma,
    "cpu-layers": cpu_tables.layers,
    "cpu-means": cpu_tables.means,
    "networks": _networks,
    "parts": _parts,
    "kernels": _kernels,
    "full": _full,
}


def report(result: Result) -> list[Table]:
    """Every table that has rows."""
    tables = [make(result) for make in TABLES.values()]
    return [table for table in tables if table.rows]
