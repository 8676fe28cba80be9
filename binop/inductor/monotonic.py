"""Whether a chain is monotonic in the dot whatever its parameters are (finite ones).

Rounding keeps order, so a chain of order-keeping and order-reversing steps is monotonic in
floating point, too, contracted multiply-adds included, and the decision on its sign flips at most
once. PReLU is not in: with a negative slope it turns round, and the slope is not known.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from binop.inductor.chain import Chain
from binop.inductor.graph import is_op, value

_aten = torch.ops.aten

# One of the inputs is the chain's, the others are the same for all pixels.
_KEEPS_OR_REVERSES = frozenset(
    {
        _aten.add.Scalar,
        _aten.add.Tensor,
        _aten.alias.default,
        _aten.clamp.default,
        _aten.clamp.Tensor,
        _aten.clamp_max.default,
        _aten.clamp_max.Tensor,
        _aten.clamp_min.default,
        _aten.clamp_min.Tensor,
        _aten.clone.default,
        _aten.div.Scalar,
        _aten.hardtanh.default,
        _aten.maximum.default,
        _aten.minimum.default,
        _aten.mul.Scalar,
        _aten.mul.Tensor,
        _aten.neg.default,
        _aten.relu.default,
        _aten.sub.Scalar,
        _aten.sub.Tensor,
    }
)


def obstacle(chain: Chain) -> str | None:
    """Why the order of a chain's values cannot be told without its parameters."""
    inside = {chain.root, *chain.nodes}
    excused: set[Node] = set()
    for node in reversed(chain.nodes):
        if node in excused:
            continue
        if is_op(node, _aten.where.self):
            branch = _leaky_relu(node)
            if branch is None:
                return "its direction depends on a slope that is not constant"
            excused |= branch
        elif not _is_ordered(node, inside):
            return f"{node.target} need not keep the order of its values"
    return None


def _is_ordered(node: Node, inside: set[Node]) -> bool:
    from_chain = [a for a in (*node.args, *node.kwargs.values()) if a in inside]
    if len(from_chain) != 1:
        return False
    if node.target is torch.ops.prims.convert_element_type.default:
        return value(node).dtype.is_floating_point
    if node.target is _aten.div.Tensor:
        return node.args[0] in inside
    if node.target is _aten.leaky_relu.default:
        return len(node.args) < 2 or _is_slope(node.args[1])
    return node.target in _KEEPS_OR_REVERSES


def _leaky_relu(where: Node) -> set[Node] | None:
    """The inner nodes of ``where(x > 0, x, x * slope)`` with a number >= 0 as the slope."""
    condition, x, other = where.args
    positive = is_op(condition, _aten.gt.Scalar) and condition.args == (x, 0)  # type: ignore[union-attr]
    scaled = is_op(other, _aten.mul.Tensor, _aten.mul.Scalar)
    if not positive or not scaled:
        return None
    factors: Any = other.args  # type: ignore[union-attr]
    if factors[0] is not x or not _is_slope(factors[1]):
        return None
    return {condition, other}  # type: ignore[arg-type]


def _is_slope(number: object) -> bool:
    return isinstance(number, int | float) and number >= 0
