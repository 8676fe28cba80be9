"""Finds what stands between a packed convolution and a decision on signs.

A *chain* is a set of pointwise nodes that computes, from the convolution's output and from
values that are the same for all images and pixels, one float per element, and that nothing else
reads. It may branch and join inside (``where(x > 0, x, slope * x)``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch
from torch.fx import Node

from binop.inductor.graph import is_op, tensor

_aten = torch.ops.aten
_prims = torch.ops.prims

CONVOLUTIONS = (
    torch.ops.binop.binary_conv2d_packed.explicit,
    torch.ops.binop.binary_conv2d_packed.default,
)

# Each result is the exact one, rounded once (or exact): the same wherever it is computed.
# tanh, sigmoid and their kin are not here: libraries differ in their last bits.
EXACT_OPS = frozenset(
    {
        _aten.abs.default,
        _aten.add.Scalar,
        _aten.add.Tensor,
        _aten.alias.default,
        _aten.bitwise_and.Tensor,
        _aten.bitwise_not.default,
        _aten.bitwise_or.Tensor,
        _aten.clamp.default,
        _aten.clamp.Tensor,
        _aten.clamp_max.default,
        _aten.clamp_max.Tensor,
        _aten.clamp_min.default,
        _aten.clamp_min.Tensor,
        _aten.clone.default,
        _aten.div.Scalar,
        _aten.div.Tensor,
        _aten.eq.Scalar,
        _aten.eq.Tensor,
        _aten.ge.Scalar,
        _aten.ge.Tensor,
        _aten.gt.Scalar,
        _aten.gt.Tensor,
        _aten.hardtanh.default,
        _aten.le.Scalar,
        _aten.le.Tensor,
        _aten.leaky_relu.default,
        _aten.logical_and.default,
        _aten.logical_not.default,
        _aten.logical_or.default,
        _aten.lt.Scalar,
        _aten.lt.Tensor,
        _aten.maximum.default,
        _aten.minimum.default,
        _aten.mul.Scalar,
        _aten.mul.Tensor,
        _aten.ne.Scalar,
        _aten.ne.Tensor,
        _aten.neg.default,
        _aten.relu.default,
        _aten.sign.default,
        _aten.sub.Scalar,
        _aten.sub.Tensor,
        _aten.where.self,
        _prims.convert_element_type.default,
    }
)


@dataclass
class Chain:
    """``root`` (a 4-d node) -> ``nodes`` in topological order -> ``last``.

    ``operands`` are the nodes outside that it reads: scalars, or one value a channel.
    """

    root: Node
    last: Node
    nodes: list[Node] = field(default_factory=list)
    operands: list[Node] = field(default_factory=list)


def find_chain(last: Node, consumer: Node, is_root: Callable[[Node], bool]) -> Chain | str:
    """The chain that ends in ``last``, which ``consumer`` reads, back to the one root.

    Returns a string, the reason, if there is none.
    """
    inside: dict[Node, None] = {}
    operands: dict[Node, None] = {}
    found: dict[Node, None] = {}
    waiting = deque([last])
    while waiting:
        node = waiting.popleft()
        if node in inside or node in operands or node in found:
            continue
        if is_root(node):
            found[node] = None
        elif is_per_channel(node):
            operands[node] = None
        elif node.op == "call_function" and node.target in EXACT_OPS:
            inside[node] = None
            waiting.extend(node.all_input_nodes)
        else:
            # The nearer obstacle says more.
            return _other_reader(inside, consumer) or f"it is fed by {_name(node)}"
    reason = _other_reader([*inside, *found], consumer)
    if reason is not None:
        return reason
    if len(found) != 1:
        return f"it is fed by {len(found)} convolutions or pools"
    (root,) = found
    order = {node: index for index, node in enumerate(root.graph.nodes)}
    nodes = sorted(inside, key=order.__getitem__)
    return Chain(root, last, nodes, list(operands))


def _other_reader(inside: Collection[Node], consumer: Node) -> str | None:
    """Who else needs the floats of a chain (often a residual sum), nearest to its end first."""
    for node in inside:
        for user in node.users:
            if user is not consumer and user not in inside:
                return f"{_name(user)} reads the float values, too"
    return None


def is_per_channel(node: Node) -> bool:
    """Whether a node is one number, or one a channel of ``[N, C, H, W]``."""
    found = tensor(node)
    if found is None:
        return False
    sizes = [1] * (4 - found.ndim) + list(found.shape)
    return (
        len(sizes) == 4
        and all(isinstance(sizes[axis], int) and sizes[axis] == 1 for axis in (0, 2, 3))
        and not _depends_on_image(node)
    )


def _depends_on_image(node: Node) -> bool:
    """Whether a convolution comes into a value: an image of one pixel and batch 1 looks like a
    value a channel, and may be a residual."""
    seen: set[Node] = set()
    waiting = [node]
    while waiting:
        candidate = waiting.pop()
        if candidate in seen:
            continue
        seen.add(candidate)
        if is_op(candidate, *CONVOLUTIONS):
            return True
        waiting.extend(candidate.all_input_nodes)
    return False


def _name(node: Node) -> str:
    if node.op == "call_function":
        return str(node.target).removeprefix("<built-in function ").rstrip(">")
    return f"the {node.op} {node.name}"
