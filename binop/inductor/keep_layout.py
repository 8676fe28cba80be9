"""What our ops read stays channels_last where the traced tensor is.

Inductor lays out what it computes when the first reader in memory comes, by the tensors that are
read for it, and takes those without a layout of their own as contiguous: the max-pool after a
convolution and its BatchNorm came out contiguous for ``pack``, which takes any layout, and the
residual sum of the next convolution then needs a copy.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Graph, Node

from binop.inductor.graph import arguments, is_op, tensor

_ops = torch.ops.binop

# By op, the argument whose layout is kept.
_READ = {_ops.pack.default: "x", _ops.binary_conv2d_residual.default: "residual"}

# Inductor's own name (torch 2.11 to 2.13): a node whose result is realized with the order of its
# traced strides.
_REALIZE = "inductor_realize_to_strides"


def run(graph: Graph) -> None:
    for node in graph.nodes:
        if is_op(node, *_READ):
            read = arguments(node)[_READ[node.target]]
            if read.op == "call_function" and _is_last(tensor(read)):
                read.meta[_REALIZE] = True


def _is_last(x: Tensor | None) -> bool:
    return x is not None and x.dim() == 4 and x.shape[1] != 1 and x.stride(1) == 1


def unwrapped(node: Node) -> Node:
    """Before copies to another layout, the channels_last tensor that they copy, if there is one."""
    source = node
    while is_op(source, torch.ops.aten.clone.default):
        source = source.args[0]  # type: ignore[assignment]
        if _is_last(tensor(source)):
            return source
    return node
