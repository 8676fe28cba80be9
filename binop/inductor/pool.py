"""Max-pooling on packed bits: the OR over each window."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Graph, Node

from binop.inductor.graph import arguments, call, is_op, value

_aten = torch.ops.aten


def _overloads() -> tuple[Any, ...]:
    """What Inductor's decompositions make of ``max_pool2d``; the second is private to it."""
    prim = torch.ops.prims
    names = ("_low_memory_max_pool_with_offsets", "_low_memory_max_pool2d_with_offsets")
    found = [getattr(prim, name).default for name in names if hasattr(prim, name)]
    return (_aten.max_pool2d_with_indices.default, *found)


def is_max_pool(node: Node) -> bool:
    """Whether a node is the values (not the indices) of a 2-d max-pool over a 4-d tensor."""
    if not is_op(node, operator.getitem) or node.args[1] != 0:
        return False
    pool = node.args[0]
    return is_op(pool, *_overloads()) and value(arguments(pool)[_input_name(pool)]).ndim == 4  # type: ignore[arg-type]


def _input_name(pool: Node) -> str:
    return str(pool.target._schema.arguments[0].name)  # type: ignore[union-attr]


def pool_input(node: Node) -> Node:
    """What a max-pool (as in ``is_max_pool``) reads."""
    pool: Any = node.args[0]
    return arguments(pool)[_input_name(pool)]


def obstacle(node: Node) -> str | None:
    """Why a max-pool cannot be done on bits."""
    pool: Any = node.args[0]
    if len(pool.users) > 1 or len(node.users) == 0:
        return "its indices are used"
    sizes = (*value(node).shape[2:], *value(pool_input(node)).shape[2:])
    if not all(isinstance(size, int) for size in sizes):
        return "the image size is symbolic"
    kernel = _pair(arguments(pool)["kernel_size"])
    # Each element of the window is one read in the kernel that Inductor generates.
    if kernel[0] * kernel[1] > 25:
        return "its window has more than 25 elements"
    return None


def _pair(values: Any) -> tuple[int, int]:
    items = list(values) if isinstance(values, list | tuple) else [values]
    return (items[0], items[0]) if len(items) == 1 else (items[0], items[1])


def or_pool(graph: Graph, packed: Node, node: Node) -> Node:
    """The OR of ``packed`` ``[N, H, W, words]`` over the windows of the max-pool ``node``."""
    pool: Any = node.args[0]
    values = arguments(pool)
    kernel = _pair(values["kernel_size"])
    stride = _pair(values["stride"]) if values["stride"] else kernel
    padding, dilation = _pair(values["padding"]), _pair(values["dilation"])
    sizes = value(packed).shape[1:3]
    outputs = value(node).shape[2:]
    # Zeros do not count in an OR, nor does padding in a max-pool. With ceil_mode windows reach
    # further at the end.
    ends = [
        max(
            0,
            (outputs[i] - 1) * stride[i]
            + (kernel[i] - 1) * dilation[i]
            + 1
            - sizes[i]
            - padding[i],
        )
        for i in (0, 1)
    ]
    if any(padding) or any(ends):
        pads = [0, 0, padding[1], ends[1], padding[0], ends[0]]
        packed = call(graph, _aten.constant_pad_nd.default, packed, pads, 0)
    result = None
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            part = packed
            for axis, start in ((1, row * dilation[0]), (2, column * dilation[1])):
                end = start + (outputs[axis - 1] - 1) * stride[axis - 1] + 1
                part = call(graph, _aten.slice.Tensor, part, axis, start, end, stride[axis - 1])
            result = part if result is None else call(graph, _aten.bitwise_or.Tensor, result, part)
    assert result is not None
    return result
