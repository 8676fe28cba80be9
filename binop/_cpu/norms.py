"""A BatchNorm behind a convolution as one step of the library: ``scale * y + shift`` per channel.

That is how torch's CPU kernel computes it, too, but how it derives scale and shift, and whether it
rounds once or after each operation, depends on its build and on the processor. So it is asked: for
0 it returns the shift, and without a shift, for 1, the scale. Then all that the convolution can put
out is computed both ways and compared. Only a way that gives torch's bits for every value of every
channel is used; what is derived holds while the vectors that it was derived from have not changed,
which the library looks at in every call.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from binop._cpu import abi, library
from binop.batch_norm import BatchNorm
from binop.packing import WORD_BITS

# Values to compare, at most: 0.1 s of work, for convolutions larger than any in use.
_MOST_VALUES = 2**26
# Of these so many at a time.
_VALUES_AT_ONCE = 2**20

_MOST_KEPT = 4096


@dataclass(frozen=True, slots=True)
class KeptNorm:
    copies: Tensor
    affine: Tensor
    norm: abi.Norm
    pointer: int

    def holds(self, sources: tuple[Tensor | None, ...]) -> bool:
        return all(
            source is None or torch.equal(source.view(torch.int32), copy.view(torch.int32))
            for source, copy in zip(sources, self.copies, strict=True)
        )


# For every shape of an input the same: by the addresses of its vectors, and what else decides.
_kept: dict[tuple[object, ...], KeptNorm] = {}


@torch.no_grad()
def find(norm: BatchNorm, weight: Tensor, scale: Tensor, bias: Tensor | None) -> KeptNorm | None:
    """The norm behind the convolution of a packed ``weight`` with ``scale`` and ``bias``, all on
    the CPU; None where the library cannot compute it, or not with torch's bits."""
    sources = (*norm[:4], scale, bias)
    channels = weight.shape[0]
    if not all(source is None or _is_vector(source, channels) for source in sources):
        return None
    pointers = (None if source is None else source.data_ptr() for source in sources)
    key = (*pointers, norm.eps, weight.shape, library.current())
    kept = _kept.get(key)
    if kept is None or not kept.holds(sources):
        kept = _derive(norm, weight, scale, bias)
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        if kept is not None:
            _kept[key] = kept
    return kept


def _derive(norm: BatchNorm, weight: Tensor, scale: Tensor, bias: Tensor | None) -> KeptNorm | None:
    channels = weight.shape[0]
    taps = weight[0].numel() * WORD_BITS  # or fewer, in the last word
    if (2 * taps + 1) * channels > _MOST_VALUES:
        return None
    zeros = torch.zeros_like(scale)
    sources = (*norm[:4], scale, bias)
    copies = torch.stack([zeros if source is None else source for source in sources])
    pixel = zeros.reshape(1, channels, 1, 1)
    shift = norm.apply(pixel).flatten()
    factor = norm._replace(bias=zeros, mean=zeros).apply(pixel + 1).flatten()
    affine = torch.stack([factor, shift])
    struct = abi.norm(sources, copies, affine)
    for fused in (True, False):
        struct.fused = fused
        if _agrees(struct, norm, scale, bias, taps):
            return KeptNorm(copies, affine, struct, ctypes.addressof(struct))
    return None


def _is_vector(values: Tensor, channels: int) -> bool:
    return values.dtype is torch.float32 and values.shape == (channels,) and values.is_contiguous()


def _agrees(
    struct: abi.Norm, norm: BatchNorm, scale: Tensor, bias: Tensor | None, taps: int
) -> bool:
    """Whether the library makes of every value that the convolution has what torch makes."""
    channels = scale.numel()
    normalize = library.load().binop_cpu_normalize
    reference = ctypes.byref(struct)
    every = torch.arange(-taps, taps + 1, dtype=torch.float32)
    for dots in every.split(max(1, _VALUES_AT_ONCE // channels)):
        y = dots.reshape(-1, 1) * scale
        if bias is not None:
            y += bias
        image = y.reshape(1, -1, 1, channels).permute(0, 3, 1, 2)
        wanted = norm.apply(image).permute(0, 2, 3, 1).reshape(y.shape)
        normalize(library.current(), reference, channels, len(dots), y.data_ptr())
        if not torch.equal(y.view(torch.int32), wanted.view(torch.int32)):
            return False
    return True
