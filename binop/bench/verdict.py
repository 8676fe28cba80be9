"""What measured times mean: speed-up over the peer, and share of the hardware's floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from binop.bench.result import Ceiling, Group, Row, find_ceiling
from binop.bench.work import Work, floor


def judge(group: Group, ceilings: list[Ceiling], peers: Sequence[str]) -> Group:
    """The group with the fastest of ``peers`` as its peer, and its rows compared.

    Overhead is the host's time, on which no ceiling of the device bears: it gets no floor.
    """
    peer = _fastest(group.rows, peers)
    rows = []
    for row in group.rows:
        if group.kind != "overhead":
            row = _with_floor(row, ceilings, group.threads)
        if peer is not None and peer.median_us and row.median_us:
            row = replace(row, speedup=peer.median_us / row.median_us)
        rows.append(row)
    return replace(group, peer=peer.contender if peer else None, rows=rows)


def _fastest(rows: Sequence[Row], names: Sequence[str]) -> Row | None:
    timed = [row for row in rows if row.contender in names and row.median_us is not None]
    return min(timed, key=lambda row: row.median_us or 0.0, default=None)


def _with_floor(row: Row, ceilings: list[Ceiling], threads: int | None) -> Row:
    if row.median_us is None or row.bytes is None or row.ops is None or row.arithmetic is None:
        return row
    bandwidth = find_ceiling(ceilings, "copy", threads)
    peak = find_ceiling(ceilings, row.arithmetic, threads)
    least = floor(Work(row.bytes, row.ops, row.arithmetic), bandwidth, peak)
    if least is None:
        return row
    floor_us = 1e6 * least.seconds
    bound = least.bound
    if row.ops and peak is None:
        bound = f"{bound} (no ceiling for {row.arithmetic})"
    return replace(row, floor_us=floor_us, bound=bound, share_of_floor=floor_us / row.median_us)
