"""``binary_conv2d(x, weight, ...)`` -> ``binary_conv2d_packed(pack(x), pack(weight), ...)``.

Exact: both compute ``float32(scale_a) * float32(scale_w)`` rounded once, times the same integer,
rounded once (SEMANTICS 3). In a training graph, where the backward's ``pack_with_mask(x)`` stands
beside the convolution, its signs are used, so that ``x`` is read once.
"""

from __future__ import annotations

import operator

import torch
from torch.fx import Graph, Node

from binop import packing
from binop.inductor import report
from binop.inductor.graph import arguments, call, is_op, replace, value

NAME = "packed"
_ops = torch.ops.binop
_aten = torch.ops.aten


def run(graph: Graph) -> None:
    for node in list(graph.nodes):
        if is_op(node, _ops.binary_conv2d.default):
            reason = _obstacle(node)
            if reason is None:
                _lower(graph, node)
            else:
                report.left(NAME, node, reason)


def _obstacle(node: Node) -> str | None:
    """Why a convolution stays as it is."""
    values = arguments(node)
    x, weight = value(values["x"]), value(values["weight"])
    if x.dtype is torch.float64:
        return "float64 is computed in float64"
    groups = values["groups"]
    if not all(isinstance(number, int) for number in (groups, x.shape[1], *weight.shape)):
        return "its channels are symbolic"
    if groups > 1 and weight.shape[1] % packing.WORD_BITS != 0:
        return f"{weight.shape[1]} channels per group do not fill whole words"
    for name in ("scale_a", "scale_w"):
        scale = values[name]
        if value(scale).element_size() < 4 and scale.op == "call_function":
            # Fused into what makes the scale, Inductor would skip the rounding to 16 bits.
            return f"{name} is computed in {value(scale).dtype}"
    return None


def _lower(graph: Graph, node: Node) -> None:
    values = arguments(node)
    x, weight = values["x"], values["weight"]
    signs = _saved_signs(x)
    insertion = node if signs is None else signs.next
    with graph.inserting_before(insertion):
        if signs is None:
            signs = call(graph, _ops.pack.default, x)
            signs.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
        packed_weight = call(graph, _ops.pack.default, weight)
        alpha = _alpha(graph, values["scale_a"], values["scale_w"])
        y = call(
            graph,
            _ops.binary_conv2d_packed.explicit,
            signs,
            packed_weight,
            value(x).shape[1],
            alpha,
            None,
            values["stride"],
            values["padding"],
            values["dilation"],
            values["groups"],
            values["pad_value"],
            value(x).dtype,
        )
        new = y
        if not same_strides(value(node), value(y)):
            # The op gives the memory format of x. The copy costs nothing where Inductor
            # computes on: it becomes an index in the next kernel.
            new = call(graph, _aten.clone.default, y, memory_format=torch.contiguous_format)
    y.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
    report.done(NAME, node, _describe(value(x), value(weight)))
    replace(node, new)


def same_strides(wanted: torch.Tensor, got: torch.Tensor) -> bool:
    """Whether both have the strides of ``got``, which is channels_last. Adds no guards."""
    if all(isinstance(number, int) for number in (*wanted.stride(), *got.stride())):
        return wanted.stride() == got.stride()
    pixel_stride = wanted.stride(1)
    return isinstance(pixel_stride, int) and pixel_stride == 1


def _describe(x: torch.Tensor, weight: torch.Tensor) -> str:
    out_channels, depth, rows, columns = weight.shape
    return f"{depth} -> {out_channels} channels, {rows}x{columns}, from {x.dtype}"


def _saved_signs(x: Node) -> Node | None:
    """The signs of ``x`` that the backward keeps, if it asks for them together with the mask."""
    for user in x.users:
        if is_op(user, _ops.pack_with_mask.default) and user.args[0] is x:
            for part in user.users:
                if is_op(part, operator.getitem) and part.args[1] == 0:
                    return part
            graph = user.graph
            with graph.inserting_after(user):
                part = graph.call_function(operator.getitem, (user, 0))
            part.meta["val"] = value(user)[0]
            return part
    return None


def _alpha(graph: Graph, scale_a: Node, scale_w: Node) -> Node:
    """``float32(scale_a) * float32(scale_w)``; a constant 1 or number takes no tensor."""
    number = constant_number(scale_a)
    scale_w = _as_float32(graph, scale_w)
    if number == 1.0:
        return scale_w
    if number is not None:
        return call(graph, _aten.mul.Tensor, scale_w, number)
    return call(graph, _aten.mul.Tensor, _as_float32(graph, scale_a), scale_w)


def _as_float32(graph: Graph, scale: Node) -> Node:
    if value(scale).dtype is torch.float32:
        return scale
    return call(graph, torch.ops.prims.convert_element_type.default, scale, torch.float32)


def constant_number(node: Node) -> float | None:
    """The number that ``aten.full`` fills a float32 tensor with; None for any other node."""
    if not is_op(node, _aten.full.default) or value(node).dtype is not torch.float32:
        return None
    fill = node.args[1]
    return float(fill) if isinstance(fill, int | float) else None
