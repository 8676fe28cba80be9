"""Thresholds found while the compiled graph runs, for parameters that are not constant.

For a monotonic chain the decision flips at most once, so two small searches find the place: the
chain on every S-th of the G dots, then on the S dots before the first that decides otherwise,
with S about sqrt(G). That is 2 sqrt(G) values a channel instead of G: 192 instead of 9,217 for
512 channels and a 3x3 kernel. Inductor makes one reduction kernel of each search.

Sound for finite parameters whose products do not overflow. (Infinite ones can make NaNs in the
middle of the range of the dot, where the decision then flips twice.)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Graph, Node

from binop.inductor.bits import sign_bits
from binop.inductor.chain import Chain
from binop.inductor.evaluate import Dots
from binop.inductor.graph import arguments, call, substitute, value

_aten = torch.ops.aten
_prims = torch.ops.prims

# The searches must be worth it: pixels of the output per value searched, at least.
_LEAST_GAIN = 4


def pays(convolution: Node, dots: Dots) -> bool:
    """Whether the float output is larger by far than what the searches compute."""
    batch, _, height, width = (_hint(size) for size in value(convolution).shape)
    return batch * height * width >= _LEAST_GAIN * 2 * math.isqrt(dots.count)


def _hint(size: Any) -> int:
    """A symbolic size counts as it was when it was traced."""
    if isinstance(size, int):
        return size
    hint = size.node.hint
    return int(hint) if hint is not None else 1


class Search:
    """Builds the searches of one convolution at the graph's insertion point."""

    def __init__(self, graph: Graph, convolution: Node, chains: list[Chain], dots: Dots) -> None:
        self._graph = graph
        self._convolution = convolution
        self._chains = chains
        self._dots = dots
        self._out_channels = value(convolution).shape[1]

    def thresholds(self) -> tuple[Node, Node]:
        """``threshold`` int32 ``[O]`` and ``flip`` bool ``[O]``."""
        count = self._dots.count
        coarse = max(1, math.isqrt(count))
        points = -(-count // coarse)
        decisions = self._decisions(self._range(points, coarse))
        first = self._call(_aten.slice.Tensor, decisions, 2, 0, 1)
        same = self._call(_aten.eq.Tensor, decisions, first)
        # The flip lies after the last coarse point that decides as the first one does.
        seen = self._call(_aten.sum.dim_IntList, same, [2], True)
        base = self._call(_aten.mul.Tensor, self._call(_aten.sub.Tensor, seen, 1), coarse)
        indices = self._call(_aten.add.Tensor, base, self._range(coarse, 1))
        indices = self._call(_aten.clamp_max.default, indices, count - 1)
        same = self._call(_aten.eq.Tensor, self._decisions(indices), first)
        seen = self._call(_aten.sum.dim_IntList, same, [2], True)
        index = self._call(_aten.clamp_max.default, self._call(_aten.add.Tensor, base, seen), count)
        return self._per_channel(self._dot(index), torch.int32), self._per_channel(first)

    def falling(self) -> Node:
        """Bool ``[O]``: whether the values before the pool fall with the dot."""
        least = self._values(self._range(1, 1), self._chains[:1])
        most = self._values(self._range(1, 1, self._dots.count - 1), self._chains[:1])
        return self._per_channel(self._call(_aten.lt.Tensor, most, least))

    def _decisions(self, indices: Node) -> Node:
        return sign_bits(self._graph, self._values(indices, self._chains))

    def _values(self, indices: Node, chains: list[Chain]) -> Node:
        """The chains on the dots with these indices ``[1, O or 1, count, 1]``."""
        values = arguments(self._convolution)
        dots = self._call(_prims.convert_element_type.default, self._dot(indices), torch.float32)
        y = self._call(_aten.mul.Tensor, self._column(values["scale"]), dots)
        if values["bias"] is not None:
            y = self._call(_aten.add.Tensor, y, self._column(values["bias"]))
        if values["out_dtype"] is not torch.float32:
            y = self._call(_prims.convert_element_type.default, y, values["out_dtype"])
        y = self._in_memory(y)
        env: dict[Node, Node] = {}
        for chain in chains:
            env[chain.root] = y
            for node in chain.nodes:
                args, kwargs = substitute((node.args, node.kwargs), env)
                env[node] = self._call(node.target, *args, **kwargs)
            y = env.get(chain.last, y)
            if chain is not self._chains[-1]:
                y = self._in_memory(y)  # What a pool reads.
        return y

    def _in_memory(self, x: Node) -> Node:
        """Rounded to 16 bits where that is its dtype; Inductor would keep 32 in a register, if
        it did not have to show the bits."""
        dtype = value(x).dtype
        if dtype.itemsize != 2:
            return x
        return self._call(_aten.view.dtype, self._call(_aten.view.dtype, x, torch.int16), dtype)

    def _dot(self, indices: Node) -> Node:
        scaled = self._call(_aten.mul.Tensor, indices, self._dots.step)
        return self._call(_aten.add.Tensor, scaled, self._dots.first)

    def _range(self, count: int, step: int, first: int = 0) -> Node:
        line = self._call(
            _prims.iota.default,
            count,
            start=first,
            step=step,
            dtype=torch.int64,
            device=value(self._convolution).device,
            requires_grad=False,
        )
        return self._call(_aten.view.default, line, [1, 1, count, 1])

    def _column(self, data: Node) -> Node:
        return self._call(_aten.view.default, data, [1, -1, 1, 1])

    def _per_channel(self, data: Node, dtype: torch.dtype | None = None) -> Node:
        """``[1, O or 1, 1, 1]`` as ``[O]``."""
        if dtype is not None:
            data = self._call(_prims.convert_element_type.default, data, dtype)
        data = self._call(_aten.expand.default, data, [1, self._out_channels, 1, 1])
        data = self._call(_aten.clone.default, data, memory_format=torch.contiguous_format)
        return self._call(_aten.view.default, data, [self._out_channels])

    def _call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        return call(self._graph, target, *args, **kwargs)
