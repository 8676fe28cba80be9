"""Sizes of a 2-D convolution: plain arithmetic on ints or SymInts, shared by every stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# float32 holds every integer up to 2**24, so a dot product of fewer taps is exact in it.
MAX_TAPS = 2**24

# Input channels of a network's first convolution, at most.
STEM_CHANNELS = 4

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Conv2dGeometry:
    """The sizes of one convolution. Any of them may be a SymInt while a graph is traced."""

    batch: int
    channels: int
    height: int
    width: int
    out_channels: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    @property
    def group_channels(self) -> int:
        """Input channels that one output channel sees."""
        return self.channels // self.groups

    @property
    def taps(self) -> int:
        """``K``: products summed for one output element."""
        return self.group_channels * self.kernel[0] * self.kernel[1]

    @property
    def out_height(self) -> int:
        return self._out_size(self.height, 0)

    @property
    def out_width(self) -> int:
        return self._out_size(self.width, 1)

    def _out_size(self, size: int, axis: int) -> int:
        reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        return (size + 2 * self.padding[axis] - reach) // self.stride[axis] + 1


def as_pair(value: int | Sequence[int]) -> Sequence[int]:
    """An int twice, or the sequence as it is (its length is checked where the op is called)."""
    return (value, value) if isinstance(value, int) else value


def same_padding(
    kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[Pair, Pair]:
    """Padding that keeps the image size, and how many leading rows and columns to drop after.

    The total padding of an axis, ``dilation * (kernel - 1)``, is odd for an even kernel; the
    extra element then belongs at the end (as in ``torch.nn.functional.conv2d``). The ops pad
    both sides alike, so such an axis is padded by the larger half and its first output dropped.
    """
    if any(s != 1 for s in stride):
        raise ValueError(
            f"binary_conv2d: padding='same': expected a stride of 1, got {tuple(stride)}"
        )
    totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    padding = ((totals[0] + 1) // 2, (totals[1] + 1) // 2)
    return padding, (totals[0] % 2, totals[1] % 2)
