"""The ops as the reference computes them, called with an op's arguments."""

from __future__ import annotations

from functools import partial

from binop import ops, reference

binary_conv2d = partial(ops._binary_conv2d, reference)
binary_conv2d_packed = partial(ops._binary_conv2d_packed, reference)
binary_conv2d_threshold = partial(ops._binary_conv2d_threshold, reference)
pack = partial(ops._pack, reference)
pack_with_mask = partial(ops._pack_with_mask, reference)
unpack = partial(ops._unpack, reference)
