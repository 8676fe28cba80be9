"""conv -> (ReLU) -> BatchNorm -> + residual -> (RPReLU) -> (shift) -> pack, where the sum is needed
as floats, too: ``binary_conv2d_residual``, which writes the floats and the bits.

Only where a kernel makes both. Elsewhere the op is a composition, and Inductor makes better kernels
of its parts.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch._inductor import config
from torch.fx import Graph, Node

from binop.inductor import report
from binop.inductor.chain import CONVOLUTIONS, is_per_channel
from binop.inductor.graph import arguments, call, is_op, replace, value
from binop.inductor.keep_layout import unwrapped
from binop.residual import cpu_has_kernel, cuda_devices, obstacle

NAME = "residual"
_ops = torch.ops.binop
_aten = torch.ops.aten
_CONVERT = torch.ops.prims.convert_element_type.default

# Kinds of devices where the op is used, where it has a kernel (some devices and shapes have none).
# Bi-Real Net 18 on an H200 (bfloat16, 2026-11-24): 1,313 us instead of 1,599 at 256 images, 112
# instead of 168 at one. Not on the CPU, although the library has a kernel: one image in float32 on
# an EPYC with AVX2 takes 1.5% less on one thread, and the same on two (CONTRIBUTING.md).
DEVICES = {"cuda"}


@dataclass(frozen=True)
class Site:
    """The nodes of a match. ``norm`` and ``activation`` are the per-channel operands."""

    convolution: Node
    relu: bool
    norm: list[Node]
    residual: Node
    activation: list[Node] | None
    y: Node
    shift: Node | None
    pack: Node


def run(graph: Graph) -> None:
    for node in list(graph.nodes):
        if is_op(node, *CONVOLUTIONS) and value(node).device.type in DEVICES:
            site = find_site(node)
            if isinstance(site, Site):
                site = _obstacle(site) or site
            if isinstance(site, str):
                report.left(NAME, node, site)
            else:
                _fuse(graph, site)


def identity() -> tuple[Any, ...]:
    """What the rewrite depends on beside the graph."""
    cpu = "cpu" in DEVICES and cpu_has_kernel()
    return tuple(sorted(DEVICES)), cpu, cuda_devices() if "cuda" in DEVICES else ()


def _obstacle(site: Site) -> str | None:
    """Why no kernel makes both outputs."""
    values = arguments(site.convolution)
    on_cuda = value(site.convolution).device.type == "cuda"
    if on_cuda and value(site.residual).stride(1) != 1:
        return "the residual is not channels_last"
    return obstacle(
        value(values["x"]),
        value(values["weight"]),
        _size(values["channels"]),
        value(site.residual).dtype,
        values["stride"],
        values["padding"],
        values["dilation"],
        values["groups"],
        values["pad_value"],
    )


def _size(channels: Any) -> Any:
    return value(channels) if isinstance(channels, Node) else channels


def find_site(convolution: Node) -> Site | str:
    """What follows a convolution, or why it does not fit the op."""
    if arguments(convolution)["bias"] is not None:
        return "it has a bias"
    node, relu = _skip(convolution), False
    if only_user(node, _aten.relu.default):
        node, relu = _skip(_user(node)), True
    found = find_norm(node)
    if found is None:
        return "no BatchNorm follows it"
    node, norm = _skip(found[0]), found[1]
    if not only_user(node, _aten.add.Tensor):
        return "no residual is added to it"
    node, residual = _user(node), _operand(_user(node), node)
    residual = None if residual is None else unwrapped(residual)
    if residual is None or value(residual).shape != value(convolution).shape:
        return "no residual is added to it"
    if is_per_channel(residual) or value(residual).dtype is not value(node).dtype:
        return "no residual of its dtype is added to it"
    y, activation = _rprelu(node) or (node, None)
    for user in y.users:
        if is_op(user, _ops.pack.default):
            site = Site(convolution, relu, norm, residual, activation, y, None, user)
            return _unless_rounded(site)
    for user in y.users:
        shift = _operand(user, y) if is_op(user, _aten.add.Tensor) else None
        if shift is not None and is_per_channel(shift) and only_user(user, _ops.pack.default):
            site = Site(convolution, relu, norm, residual, activation, y, shift, _user(user))
            return _unless_rounded(site)
    return "no binary convolution reads the sum"


def find_norm(node: Node) -> tuple[Node, list[Node]] | None:
    """A BatchNorm as Inductor decomposes it that alone reads a node: its end, and its per-channel
    operands (mean, 1 / std, weight, bias)."""
    norm = []
    for op in (_aten.sub.Tensor, _aten.mul.Tensor, _aten.mul.Tensor, _aten.add.Tensor):
        if not only_user(node, op):
            return None
        node, operand = _user(node), _operand(_user(node), node)
        if operand is None or not is_per_channel(operand):
            return None
        norm.append(operand)
    return node, norm


def _unless_rounded(site: Site) -> Site | str:
    if value(site.y).dtype.itemsize == 2:
        # Inductor would not round the sum to 16 bits before it goes on; the op does.
        if site.activation or site.shift:
            return "in 16 bits, more than a sign follows the sum"
        # Here it rounds after every operation; the op does not.
        if config.emulate_precision_casts:
            return "emulate_precision_casts rounds to 16 bits after every operation"
    return site


def _skip(node: Node) -> Node:
    """Past copies and conversions between floats, as long as one reader follows the other."""
    while only_user(node, _aten.clone.default, _aten.alias.default, _CONVERT):
        node = _user(node)
    return node


def _user(node: Node) -> Node:
    return next(iter(node.users))


def only_user(node: Node, *ops: Any) -> bool:
    return len(node.users) == 1 and is_op(_user(node), *ops)


def _operand(node: Node, first: Node) -> Node | None:
    """The other operand of a binary node (of a subtraction: what is subtracted)."""
    if node.kwargs or len(node.args) != 2:
        return None
    left, right = node.args
    other = right if left is first else left
    if right is first and (left is first or is_op(node, _aten.sub.Tensor)):
        return None
    return other if isinstance(other, Node) else None


def _rprelu(node: Node) -> tuple[Node, list[Node]] | None:
    """``where(v > 0, v, slope * v) + after`` of ``v = node + before``: its end and operands."""
    if not only_user(node, _aten.add.Tensor):
        return None
    v, before = _user(node), _operand(_user(node), node)
    where = next((user for user in v.users if is_op(user, _aten.where.self)), None)
    if before is None or where is None or not only_user(where, _aten.add.Tensor):
        return None
    condition, kept, scaled = where.args
    if kept is not v or not is_op(condition, _aten.gt.Scalar) or condition.args != (v, 0):  # type: ignore[union-attr]
        return None
    if not is_op(scaled, _aten.mul.Tensor) or set(v.users) != {condition, scaled, where}:
        return None
    slope = _operand(scaled, v)  # type: ignore[arg-type]
    y, after = _user(where), _operand(_user(where), where)
    operands = [before, slope, after]
    if any(operand is None or not is_per_channel(operand) for operand in operands):
        return None
    return y, operands  # type: ignore[return-value]


def _fuse(graph: Graph, site: Site) -> None:
    values = arguments(site.convolution)
    channels = value(site.convolution).shape[1]
    with graph.inserting_before(site.pack):
        both = call(
            graph,
            _ops.binary_conv2d_residual.default,
            values["x"],
            values["weight"],
            values["channels"],
            values["scale"],
            rows(graph, site.norm, channels),
            site.residual,
            None if site.activation is None else rows(graph, site.activation, channels),
            None if site.shift is None else _row(graph, site.shift, channels, []),
            site.relu,
            values["stride"],
            values["padding"],
            values["dilation"],
            values["groups"],
            values["pad_value"],
        )
        y = call(graph, operator.getitem, both, 0)
        signs = call(graph, operator.getitem, both, 1)
        both.meta["nn_module_stack"] = site.convolution.meta.get("nn_module_stack")
        copied = call(graph, _aten.clone.default, y, memory_format=torch.contiguous_format)
    report.done(NAME, site.convolution, "floats and bits in one pass")
    replace(site.pack, signs)
    replace(site.y, y if value(site.y).stride(1) == 1 else copied)
    if not copied.users:
        graph.erase_node(copied)


def rows(graph: Graph, operands: list[Node], channels: int) -> Node:
    """Per-channel operands as float32 ``[len(operands), channels]``."""
    parts = [_row(graph, operand, channels, [1]) for operand in operands]
    return call(graph, _aten.cat.default, parts, 0)


def _row(graph: Graph, operand: Node, channels: int, leading: list[int]) -> Node:
    if value(operand).dtype is not torch.float32:
        operand = call(graph, _CONVERT, operand, torch.float32)
    size = value(operand).numel()
    row = call(graph, _aten.view.default, operand, [*leading, size])
    return row if size == channels else call(graph, _aten.expand.default, row, [*leading, channels])
