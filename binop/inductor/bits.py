"""The sign rule and ``pack`` as ATen ops, for Inductor to fuse with what stands before them."""

from __future__ import annotations

import torch
from torch.fx import Graph, Node

from binop.inductor.graph import call, value
from binop.packing import WORD_BITS, word_count

_aten = torch.ops.aten
_prims = torch.ops.prims

# Integer type of the same width, and the bit pattern of +inf in it.
INTEGER_VIEW = {
    torch.float16: (torch.int16, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float32: (torch.int32, 0x7F80_0000),
}


def sign_bits(graph: Graph, x: Node) -> Node:
    """``x >= 0`` as bool for every bit pattern: -0.0 is True, NaN and negative subnormals False.

    On the integer view of the float, so that neither flush-to-zero nor a comparison that the
    compiler rewrites can change it; the view also rounds a 16-bit float that Inductor holds in
    32 bits.
    """
    integer, infinity = INTEGER_VIEW[value(x).dtype]
    bits = call(graph, _aten.view.dtype, x, integer)
    not_negative = call(graph, _aten.ge.Scalar, bits, 0)
    number = call(graph, _aten.le.Scalar, bits, infinity)
    minus_zero = call(graph, _aten.eq.Scalar, bits, torch.iinfo(integer).min)
    positive = call(graph, _aten.bitwise_and.Tensor, not_negative, number)
    return call(graph, _aten.bitwise_or.Tensor, positive, minus_zero)


def pack(graph: Graph, x: Node) -> Node:
    """``binop::pack(x)`` of a float tensor: a sum of shifted bits over each word's channels."""
    channels = value(x).shape[1]
    words = word_count(channels)
    bits = call(graph, _aten.permute.default, sign_bits(graph, x), [0, 2, 3, 1])
    bits = call(graph, _prims.convert_element_type.default, bits, torch.int32)
    tail = words * WORD_BITS - channels
    if tail:
        bits = call(graph, _aten.constant_pad_nd.default, bits, [0, tail], 0)
    sizes = [_size(graph, bits, axis) for axis in range(3)]
    bits = call(graph, _aten.view.default, bits, [*sizes, words, WORD_BITS])
    shifts = call(
        graph,
        _prims.iota.default,
        WORD_BITS,
        start=0,
        step=1,
        dtype=torch.int32,
        device=value(x).device,
        requires_grad=False,
    )
    lanes = call(graph, _aten.bitwise_left_shift.Tensor, bits, shifts)
    return call(graph, _aten.sum.dim_IntList, lanes, [4], False, dtype=torch.int32)


def _size(graph: Graph, x: Node, axis: int) -> int | Node:
    size = value(x).shape[axis]
    return size if isinstance(size, int) else call(graph, _aten.sym_size.int, x, axis)
