"""The sign rule and ``pack`` as ATen ops, for Inductor to fuse with what stands before them."""

from __future__ import annotations

import torch
from torch.fx import Graph, Node

from binop.inductor.graph import call, value

_aten = torch.ops.aten

# Integer type of the same width, and the bit pattern of +inf in it.
_INTEGER_VIEW = {
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
    integer, infinity = _INTEGER_VIEW[value(x).dtype]
    bits = call(graph, _aten.view.dtype, x, integer)
    not_negative = call(graph, _aten.ge.Scalar, bits, 0)
    number = call(graph, _aten.le.Scalar, bits, infinity)
    minus_zero = call(graph, _aten.eq.Scalar, bits, torch.iinfo(integer).min)
    positive = call(graph, _aten.bitwise_and.Tensor, not_negative, number)
    return call(graph, _aten.bitwise_or.Tensor, positive, minus_zero)
