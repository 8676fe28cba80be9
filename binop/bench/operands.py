"""The tensors of one case: random, made once, shared by its contenders."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from binop.bench import gate
from binop.bench.cases import ConvCase, PackCase

# More copies of one input than this prove nothing and fill small GPUs.
_MOST_COPIES = 64


class Values:
    """Random values in every dtype and memory format that a contender asks for."""

    def __init__(self, sizes: tuple[int, ...], device: torch.device, seed: int) -> None:
        generator = torch.Generator(device).manual_seed(seed)
        self._values = torch.randn(sizes, generator=generator, device=device)
        self._casts: dict[tuple[torch.dtype, bool], Tensor] = {}

    def cast(self, dtype: torch.dtype, channels_last: bool) -> Tensor:
        """The values so; the same tensor on every call."""
        key = dtype, channels_last
        if key not in self._casts:
            memory_format = torch.channels_last if channels_last else torch.contiguous_format
            self._casts[key] = self._values.to(dtype).contiguous(memory_format=memory_format)
        return self._casts[key]


def copies(tensor: Tensor, cold_bytes: int) -> list[Tensor]:
    """``tensor``, and so many clones that all together hold at least ``cold_bytes``: calls that
    take them in turn then find none in the cache. With 0 bytes, ``tensor`` alone."""
    size = tensor.numel() * tensor.element_size()
    count = min(_MOST_COPIES, -(-cold_bytes // size))
    return [tensor, *(tensor.clone() for _ in range(count - 1))]


class ConvOperands:
    """Inputs of a convolution case. ``dtype`` is what its float activations are stored in;
    ``cold_bytes`` is what the copies of an input must exceed together (see :func:`copies`)."""

    def __init__(
        self, case: ConvCase, device: torch.device, dtype: torch.dtype, seed: int, cold_bytes: int
    ) -> None:
        self.case = case
        self.dtype = dtype
        self.cold_bytes = cold_bytes
        geometry = case.geometry
        filters = (case.o, case.c, *geometry.kernel)
        self.x = Values((case.n, case.c, case.size, case.size), device, seed)
        self.weight = Values(filters, device, seed + 1)
        generator = torch.Generator(device).manual_seed(seed + 2)
        self.scale_a = torch.rand((), generator=generator, device=device) + 0.5
        self.scale_w = torch.rand(case.o, generator=generator, device=device) + 0.5
        self.threshold = torch.randint(
            -8, 9, (case.o,), generator=generator, device=device, dtype=torch.int32
        )
        self.flip = torch.rand(case.o, generator=generator, device=device) < 0.5

    @cached_property
    def alpha(self) -> Tensor:
        return self.scale_a * self.scale_w

    @cached_property
    def packed_x(self) -> Tensor:
        packed: Tensor = torch.ops.binop.pack(self.x.cast(self.dtype, True))
        return packed

    @cached_property
    def packed_weight(self) -> Tensor:
        packed: Tensor = torch.ops.binop.pack(self.weight.cast(self.dtype, False))
        return packed

    @cached_property
    def dots(self) -> Tensor:
        x = self.x.cast(self.dtype, False)
        return gate.expected_dots(x, self.weight.cast(self.dtype, False), self.case)


class PackOperands:
    """The input of a pack case."""

    def __init__(
        self, case: PackCase, device: torch.device, dtype: torch.dtype, seed: int, cold_bytes: int
    ) -> None:
        self.case = case
        self.dtype = dtype
        self.cold_bytes = cold_bytes
        self.x = Values((case.n, case.c, case.size, case.size), device, seed)
