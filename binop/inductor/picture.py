"""Draws the kernels of a graph: boxes in the order of execution, edges as wide as their bytes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from math import log10
from pathlib import Path
from typing import Any

import torch
from torch.fx import Node

from binop.inductor.graph import layer_of, tensor
from binop.inductor.traffic import Kernel, size_of

# Okabe and Ito's colours, which colour-blind readers tell apart.
_BITS, _FLOATS, _OTHER = "#009e73", "#d55e00", "#999999"
_ROW, _COLUMN, _BOX = 1.0, 4.2, (3.8, 0.62)


def draw(kernels: Sequence[Kernel], path: Path) -> None:
    """Writes a picture (the suffix says which format) of an ``Explanation``'s kernels."""
    from matplotlib.figure import Figure

    places = _places(kernels)
    columns = 1 + max((x for x, _ in places.values()), default=0)
    rows = 1 + max((y for _, y in places.values()), default=0)
    figure = Figure(figsize=(columns * _COLUMN + 1, rows * 0.75 + 1), layout="constrained")
    axes = figure.add_subplot()
    axes.axis("off")
    axes.set_xlim(-0.6 * _COLUMN, (columns - 0.4) * _COLUMN)
    axes.set_ylim(-(rows - 0.4) * _ROW, 0.8 * _ROW)
    for kernel in kernels:
        for source in kernel.inputs:
            if source in places:
                _edge(axes, places[source], places[kernel.output], source)
    for kernel in kernels:
        _box(axes, places[kernel.output], kernel)
    axes.set_title("green: packed bits, orange: floats; width: bytes, logarithmic", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _places(kernels: Sequence[Kernel]) -> dict[Node, tuple[int, int]]:
    """Column and row of every kernel: below all that it reads, beside what shares its row."""
    places: dict[Node, tuple[int, int]] = {}
    taken: dict[int, int] = {}
    for kernel in kernels:
        above = [places[source][1] for source in kernel.inputs if source in places]
        row = 1 + max(above, default=-1)
        places[kernel.output] = (taken.get(row, 0), row)
        taken[row] = taken.get(row, 0) + 1
    return places


def _colour(node: Node) -> str:
    found = tensor(node)
    if found is None:
        return _OTHER
    if found.dtype is torch.int32:
        return _BITS
    return _FLOATS if found.is_floating_point() else _OTHER


def _edge(axes: Any, start: tuple[int, int], end: tuple[int, int], source: Node) -> None:
    bend = 0.0 if end[1] - start[1] == 1 else -0.25
    axes.annotate(
        "",
        xy=(end[0] * _COLUMN, -end[1] * _ROW + _BOX[1] / 2),
        xytext=(start[0] * _COLUMN, -start[1] * _ROW - _BOX[1] / 2),
        arrowprops={
            "arrowstyle": "-|>",
            "color": _colour(source),
            "linewidth": max(0.5, log10(max(size_of(source), 1)) - 2.5),
            "connectionstyle": f"arc3,rad={bend}",
        },
    )


def _box(axes: Any, place: tuple[int, int], kernel: Kernel) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y = place[0] * _COLUMN, -place[1] * _ROW
    axes.add_patch(
        FancyBboxPatch(
            (x - _BOX[0] / 2, y - _BOX[1] / 2),
            *_BOX,
            boxstyle="round,pad=0.02",
            facecolor="white",
            edgecolor=_colour(kernel.output),
            linewidth=1.5,
        )
    )
    made: Any = kernel.output
    while made.target is operator.getitem:
        made = made.args[0]
    operation = str(made.target).rpartition(".")[0] or str(made.target)
    label = f"{operation}\n{layer_of(kernel.output)}  {size_of(kernel.output) / 1e6:.2f} MB"
    axes.text(x, y, label, ha="center", va="center", fontsize=7, clip_on=True)
