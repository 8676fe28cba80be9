"""Pictures of a result: the roofline, and speed-ups as bars. Needs matplotlib, no device."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING

from binop.bench.result import Group, Result, threads_suffix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CONVOLUTIONS = ("layer", "latency")
_MARKERS = "osD^v<>pPX*h"


def available() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def _colour(contender: int) -> tuple[float, ...]:
    """More of them than the usual ten."""
    from matplotlib import colormaps

    palette = colormaps["tab20"]
    return palette(contender % palette.N)


def draw(result: Result, directory: Path) -> list[Path]:
    """Writes ``NAME-roofline.png`` and ``NAME-speedup.png``; the paths written."""
    groups = [group for group in result.groups if group.kind in _CONVOLUTIONS]
    if not groups:
        return []
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, figure in (
        ("roofline", _roofline(result, groups)),
        ("speedup", _speedup(result, groups)),
    ):
        path = directory / f"{result.name}-{kind}.png"
        figure.savefig(path, dpi=150)
        paths.append(path)
    return paths


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    # Not pyplot: a Figure of one's own draws with Agg and leaves no global state behind.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _contenders(groups: list[Group]) -> list[str]:
    """Names in the order of their first appearance."""
    return list(dict.fromkeys(row.contender for group in groups for row in group.rows))


def _roofline(result: Result, groups: list[Group]) -> Figure:
    """Operations per byte against operations per second, one colour a contender."""
    figure, axes = _figure(10, 6)
    reach: list[float] = []
    for index, name in enumerate(_contenders(groups)):
        points = [
            (row.ops / row.bytes, row.ops / (row.median_us * 1e-6) / 1e12)
            for group in groups
            for row in group.rows
            if row.contender == name and row.median_us and row.ops and row.bytes
        ]
        if points:
            x, y = zip(*points, strict=True)
            marker = _MARKERS[index % len(_MARKERS)]
            axes.scatter(x, y, s=28, marker=marker, color=_colour(index), label=name)
            reach += x
    if reach:
        _draw_ceilings(axes, result, min(reach) / 2, max(reach) * 2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations per byte (each input read once, each output written once)")
    axes.set_ylabel("TOPS")
    axes.set_title(f"Roofline, {result.machine['device']}")
    figure.legend(fontsize="small", loc="outside right center")
    return figure


def _draw_ceilings(axes: Axes, result: Result, low: float, high: float) -> None:
    """Bandwidths as slopes that end at the highest peak, peaks as levels."""
    peaks = [ceiling for ceiling in result.ceilings if ceiling.name != "copy"]
    highest = max((ceiling.value for ceiling in peaks), default=math.inf)
    for ceiling in result.ceilings:
        if ceiling.name == "copy":
            end = max(low, min(high, highest / ceiling.value))
            tops = [x * ceiling.value / 1e12 for x in (low, end)]
            axes.plot([low, end], tops, color="black", linewidth=1)
            text = f"{ceiling.value / 1e9:.0f} GB/s{threads_suffix(ceiling.threads)}"
            axes.annotate(text, (low, tops[0]), fontsize="x-small", va="top")
    for index, ceiling in enumerate(peaks):
        axes.axhline(ceiling.value / 1e12, color="gray", linewidth=0.8, linestyle="--")
        # Side by side, because peaks of related types nearly coincide.
        place = (low * (high / low) ** (index / len(peaks)), ceiling.value / 1e12)
        text = f"{ceiling.name}{threads_suffix(ceiling.threads)}"
        axes.annotate(text, place, fontsize="x-small", va="bottom")


def _speedup(result: Result, groups: list[Group]) -> Figure:
    """How many times faster than the peer, case by case."""
    names = [name for name in _contenders(groups) if any(_speed(g, name) for g in groups)]
    figure, axes = _figure(max(8.0, 0.12 * len(groups) * len(names) + 2), 5)
    width = 0.85 / max(1, len(names))
    for index, name in enumerate(names):
        places = [i + (index - (len(names) - 1) / 2) * width for i in range(len(groups))]
        heights = [_speed(group, name) or 0.0 for group in groups]
        axes.bar(places, heights, width, label=name, color=_colour(index))
    axes.axhline(1, color="black", linewidth=0.8)
    labels = [
        group.case if group.threads is None else f"{group.case}\n{group.threads} thr."
        for group in groups
    ]
    axes.set_xticks(range(len(groups)), labels, rotation=90 if len(groups) > 8 else 0)
    peers = sorted({group.peer for group in groups if group.peer})
    axes.set_ylabel(f"speed-up over {' or '.join(peers) or 'the peer'}")
    axes.set_title(f"Speed-up, {result.machine['device']}")
    figure.legend(fontsize="small", ncols=4, loc="outside lower center")
    return figure


def _speed(group: Group, name: str) -> float | None:
    return next((row.speedup for row in group.rows if row.contender == name), None)
