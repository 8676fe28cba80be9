"""Evaluates a chain on every value that the integer dot product can take.

The arithmetic is the compiled graph's: the convolution's output is rounded to its dtype, which it
has in memory; after that each operation is rounded to float32, and 16-bit intermediates are not
rounded in between (Inductor keeps them in registers) unless
``torch._inductor.config.emulate_precision_casts`` is set. Where Triton contracts ``a * b + c``
to one rounding, its float result can differ in the last bit from this one and from eager's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from binop.inductor.chain import Chain
from binop.inductor.constants import Constants
from binop.inductor.graph import arguments, substitute, value

# Values that one block of channels is evaluated on: bounds the memory (16 MB a temporary).
BLOCK_VALUES = 2**22

_HALVES = (torch.float16, torch.bfloat16)
_CONVERT = torch.ops.prims.convert_element_type.default


@dataclass(frozen=True)
class Dots:
    """The values ``first, first + step, ...`` (``count`` of them) of a convolution's sum."""

    first: int
    step: int
    count: int

    @classmethod
    def of(cls, convolution: Node) -> Dots:
        """All of ``[-K, K]`` that can occur: of the parity of K, unless taps can drop out."""
        values = arguments(convolution)
        _, rows, columns, _ = value(values["weight"]).shape
        taps = values["channels"] // values["groups"] * rows * columns
        padded = any(size != 0 for size in values["padding"]) and values["pad_value"] == 0
        step = 1 if padded else 2
        return cls(-taps, step, 2 * taps // step + 1)


class Evaluator:
    """Runs nodes of a chain for the output channels ``[start, stop)``."""

    def __init__(self, constants: Constants, channels: int, start: int, stop: int) -> None:
        from torch._inductor import config

        self._constants = constants
        self._channels = channels
        self._block = slice(start, stop)
        self._round_each = bool(config.emulate_precision_casts)

    def convolution(self, root: Node, dots: Dots) -> Tensor:
        """What a packed convolution returns for every dot: ``[1, channels, count, 1]``."""
        values = arguments(root)
        scale = self.operand(values["scale"]).reshape(1, -1, 1, 1)
        if values["bias"] is not None:
            bias = self.operand(values["bias"]).reshape(1, -1, 1, 1)
        grid = dots.first + dots.step * torch.arange(dots.count, device=scale.device)
        y = scale * grid.to(torch.float32).reshape(1, 1, -1, 1)
        if values["bias"] is not None:
            y = y + bias
        y = y.expand(1, self._block.stop - self._block.start, -1, 1)
        return _widen(y.to(values["out_dtype"]))

    def run(self, chain: Chain, seed: Tensor) -> Tensor:
        """The chain's last value, from that of its root; float32 where it is 16 bits wide."""
        env: dict[Node, Any] = {chain.root: seed}
        env.update((node, _widen(self.operand(node))) for node in chain.operands)
        for node in chain.nodes:
            env[node] = self._call(node, env)
        return env[chain.last]

    def _call(self, node: Node, env: dict[Node, Any]) -> Tensor:
        args, kwargs = substitute((node.args, node.kwargs), env)
        dtype = value(node).dtype
        if node.target is _CONVERT and dtype in _HALVES:
            result = args[0].to(torch.float32)
        else:
            result = node.target(*args, **kwargs)  # type: ignore[operator]
        return _widen(result.to(dtype)) if dtype in _HALVES and self._round_each else result

    def operand(self, node: Node) -> Tensor:
        """The constant that a node stands for, cut to the block of channels."""
        data = self._constants.get(node)
        assert data is not None
        axis = data.ndim - 3 if data.ndim >= 3 else 0
        if data.ndim in (1, 3, 4) and data.shape[axis] == self._channels > 1:
            block = [slice(None)] * data.ndim
            block[axis] = self._block
            return data[tuple(block)]
        return data


def _widen(data: Tensor) -> Tensor:
    return data.to(torch.float32) if data.dtype in _HALVES else data


def sign_decisions(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Bool ``[channels, count]``: what ``pack`` makes of ``[1, channels, count, 1]``."""
    packed = torch.ops.binop.pack(values.to(dtype))
    signs = torch.ops.binop.unpack(packed, values.shape[1], torch.int8)
    return signs[0, :, :, 0] > 0


def known(constants: Constants, convolution: Node, chains: Iterable[Chain]) -> bool:
    """Whether all that a decision depends on, except the image, is constant."""
    values = arguments(convolution)
    nodes = [values["scale"], *(node for chain in chains for node in chain.operands)]
    if values["bias"] is not None:
        nodes.append(values["bias"])
    return all(constants.get(node) is not None for node in nodes)
