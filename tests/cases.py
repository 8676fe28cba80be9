"""The configurations that every backend is tested on; the reason of each stands beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Case:
    """One convolution. ``c`` counts all input channels, ``o`` all output channels."""

    name: str
    c: int
    o: int
    h: int = 5
    w: int = 5
    n: int = 1
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    pad_value: int = 0
    dtype: torch.dtype = torch.float32
    channels_last: bool = False

    @property
    def options(self) -> dict[str, object]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "pad_value": self.pad_value,
        }

    def tensors(self, seed: int = 0) -> tuple[torch.Tensor, ...]:
        """x, weight, scale_a, scale_w: random, with specials sprinkled in."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(self.n, self.c, self.h, self.w, generator=generator).to(self.dtype)
        weight = torch.randn(self.o, self.c // self.groups, *self.kernel, generator=generator)
        for tensor in (x, weight):
            sprinkle(tensor, generator)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        scale_a = torch.rand((), generator=generator) + 0.5
        scale_w = torch.rand(self.o, generator=generator) - 0.5
        return x, weight, scale_a, scale_w


def specials(dtype: torch.dtype) -> torch.Tensor:
    """Every kind of float: zeros, subnormals, extremes, infinities, NaNs of both signs."""
    info = torch.finfo(dtype)
    tiny = info.smallest_normal
    subnormal = info.smallest_normal * info.eps
    nan = float("nan")
    values = [0.0, tiny, subnormal, info.max, float("inf"), nan, 1.0]
    positive = torch.tensor(values, dtype=dtype)
    return torch.cat([positive, -positive])


def sprinkle(tensor: torch.Tensor, generator: torch.Generator) -> None:
    """Overwrites about one element in eight of ``tensor`` by special values."""
    flat = tensor.view(-1)
    values = specials(tensor.dtype)
    count = flat.numel() // 8
    where = torch.randperm(flat.numel(), generator=generator)[:count]
    which = torch.randint(len(values), (count,), generator=generator)
    flat[where] = values[which]


_CHANNELS = [
    Case(f"channels{c}", c, o, h=4, w=5)  # around the word boundary, and many words
    for c, o in ((1, 1), (3, 5), (31, 2), (32, 3), (33, 33), (64, 4), (100, 3), (128, 2), (512, 2))
]
_KERNELS = [
    Case("1x1", 40, 8, kernel=(1, 1), padding=(0, 0)),  # a matrix product
    Case("1x1-padded", 5, 3, kernel=(1, 1)),  # outputs that see padding alone
    Case("5x5", 9, 3, h=6, w=7, kernel=(5, 5), padding=(2, 2)),
    Case("7x7-stride2", 3, 4, h=9, w=11, kernel=(7, 7), stride=(2, 2), padding=(3, 3)),  # a stem
    Case("1x3", 33, 3, kernel=(1, 3), padding=(0, 1)),  # separable
    Case("even-kernel", 8, 3, h=6, w=5, kernel=(2, 4), padding=(1, 2)),
    Case("no-padding", 34, 3, h=6, w=7, padding=(0, 0)),
    Case("wide-padding", 3, 2, h=3, w=4, padding=(4, 3)),  # more padding than kernel
    Case("kernel-is-image", 6, 2, h=4, w=5, kernel=(4, 5), padding=(0, 0)),
]
_STRIDES = [
    Case("stride2", 33, 4, h=7, w=8, stride=(2, 2)),  # odd and even images
    Case("stride3x2", 10, 3, h=8, w=9, stride=(3, 2), padding=(1, 0)),
    Case("stride-over-kernel", 4, 3, h=9, w=9, kernel=(2, 2), stride=(3, 3), padding=(0, 0)),
    Case("dilation2", 20, 3, h=7, w=7, padding=(2, 2), dilation=(2, 2)),
    Case("dilation4x3-stride2", 5, 2, h=11, w=9, stride=(2, 2), padding=(4, 3), dilation=(4, 3)),
]
_GROUPS = [
    Case("groups2", 8, 6, groups=2),
    Case("groups3-odd", 9, 3, groups=3),
    Case("groups-words", 64, 4, groups=2),  # groups of whole words: packed convolution works
    Case("depthwise", 6, 6, groups=6),
    Case("depthwise-multiplier", 3, 6, groups=3),
]
_BATCHES = [
    Case("batch3", 33, 4, n=3),
    Case("empty-batch", 33, 4, n=0),
    Case("one-pixel", 40, 4, h=1, w=1),
    Case("one-row", 7, 3, h=1, w=9),
]
_PADDED = [
    replace(case, name=f"{case.name}-pad{value:+d}", pad_value=value)
    for case in (*_CHANNELS[1:5], *_KERNELS[1:4], _KERNELS[7], *_STRIDES, *_GROUPS)
    for value in (-1, 1)
]
_DTYPES = [
    Case(f"{dtype}".removeprefix("torch."), 35, 6, h=4, w=5, dtype=dtype, channels_last=last)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for last in (False, True)
]
_DTYPES = [
    replace(case, name=f"{case.name}-{'nhwc' if case.channels_last else 'nchw'}")
    for case in _DTYPES
]

CASES = [*_CHANNELS, *_KERNELS, *_STRIDES, *_GROUPS, *_BATCHES, *_PADDED, *_DTYPES]


def can_pack(case: Case) -> bool:
    """Whether the packed ops take it: grouped channels must fill whole words."""
    return case.groups == 1 or (case.c // case.groups) % 32 == 0
