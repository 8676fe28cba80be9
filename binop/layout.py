"""The memory format of a tensor, as ``torch.nn.functional.conv2d`` reads it off the strides."""

from __future__ import annotations

import torch
from torch import Tensor


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last where the strides of the 4-d ``x`` ascend in that order, else contiguous."""
    sizes, strides = x.shape, x.stride()
    if not all(isinstance(number, int) for number in (*sizes, *strides)):
        # torch's own rule can guard on symbolic sizes. It is not called on plain ones because
        # it imports sympy, which takes a first call up to two seconds.
        from torch._prims_common import suggest_memory_format

        return suggest_memory_format(x)
    if strides[1] == 0:
        return torch.contiguous_format
    least = 0
    for axis in (1, 3, 2, 0):
        if sizes[axis] == 0 or strides[axis] < least:
            return torch.contiguous_format
        if axis == 0 and least == strides[1]:
            return torch.contiguous_format  # both fit
        least = strides[axis] * max(1, sizes[axis])
    return torch.channels_last
