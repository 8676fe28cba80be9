"""What a CPU's result says at a glance: a layer of floats beside its peers, packed layers beside
the processor's peak.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from binop.bench.result import Group, Result, Row
from binop.bench.text import Table, number, percent

# The best of each list is the peer; ours starts from contiguous floats, as OpenVINO does.
_PEERS = {
    "conv2d fp32": ("conv2d-fp32", "conv2d-fp32-nchw"),
    "conv2d bf16": ("conv2d-bf16", "conv2d-bf16-nchw"),
    "simulated": ("simulated", "simulated-compiled"),
    "OpenVINO": ("openvino",),
}
_OURS = "layer-nchw"
_PACKED = "packed-to-packed"


def _groups(result: Result) -> list[Group]:
    of_cpu = result.machine["kind"] == "cpu"
    return [group for group in result.groups if of_cpu and group.kind == "layer"]


def _time(group: Group, names: Sequence[str]) -> float | None:
    """Median of the fastest of these contenders, in us."""
    times = [row.median_us for row in group.rows if row.contender in names and row.median_us]
    return min(times, default=None)


def _row(group: Group, name: str) -> Row | None:
    return next((row for row in group.rows if row.contender == name), None)


def layers(result: Result) -> Table:
    """One row per case and number of threads; times in us, ratios to the peers in brackets."""
    rows = []
    for group in _groups(result):
        ours = _time(group, (_OURS,))
        cells = []
        for names in _PEERS.values():
            peer = _time(group, names)
            text = "-" if peer is None else number(peer)
            cells.append(f"{text} ({number(peer / ours)}x)" if peer and ours else text)
        rows.append(
            [
                group.case,
                group.shape,
                str(group.threads),
                *cells,
                "-" if ours is None else number(ours),
                _packed(_row(group, _PACKED), result.ceiling("b1", group.threads)),
            ]
        )
    title = "CPU layers: us (how many times the layer is faster)"
    columns = ["case", "N,C,HxW -> O, kernel / stride", "threads", *_PEERS]
    return Table(title, [*columns, "layer", "packed to packed (of peak)"], rows)


def _packed(row: Row | None, peak: float | None) -> str:
    if row is None or row.median_us is None or row.ops is None:
        return "-"
    share = f" ({percent(row.ops / (row.median_us * 1e-6) / peak)})" if peak else ""
    return f"{number(row.median_us)}{share}"


def means(result: Result) -> Table:
    """How many times the layer is faster than each peer: geometric mean and least."""
    rows = []
    groups = _groups(result)
    for threads in sorted({group.threads or 1 for group in groups}):
        for peer, names in _PEERS.items():
            pairs = [
                (_time(group, names), _time(group, (_OURS,)))
                for group in groups
                if group.threads == threads
            ]
            ratios = [theirs / ours for theirs, ours in pairs if theirs and ours]
            if ratios:
                mean, least = statistics.geometric_mean(ratios), min(ratios)
                rows.append([peer, str(threads), f"{number(mean)}x", f"{number(least)}x"])
    return Table("CPU layers: speed-up", ["over", "threads", "geometric mean", "least"], rows)
