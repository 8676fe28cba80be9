"""Reading and writing FX graphs of ATen ops: the vocabulary that the rewrites are written in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_map

_MODULE_STACK = "nn_module_stack"

# The number of torch.float32 in c10::ScalarType.
_FLOAT32 = 6


def is_op(node: object, *overloads: Any) -> bool:
    """Whether a node calls one of these overloads (``torch.ops.aten.add.Tensor``)."""
    return isinstance(node, Node) and node.op == "call_function" and node.target in overloads


def arguments(node: Node) -> dict[str, Any]:
    """The arguments of an op's node by their names in its schema, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    values: dict[str, Any] = {}
    for index, argument in enumerate(schema.arguments):
        if index < len(node.args):
            values[argument.name] = node.args[index]
        elif argument.name in node.kwargs:
            values[argument.name] = node.kwargs[argument.name]
        else:
            values[argument.name] = _default(argument)
    return values


def _default(argument: Any) -> Any:
    # Defaults of dtypes come as numbers, and our ops' one such default is float32.
    if str(argument.real_type) == "ScalarType" and argument.default_value is not None:
        assert argument.default_value == _FLOAT32, argument
        return torch.float32
    return argument.default_value


def value(node: Node) -> Any:
    """The FakeTensor (or SymInt, or tuple) that a node stands for."""
    return node.meta["val"]


def tensor(node: object) -> Tensor | None:
    """The FakeTensor of a node, None for anything else."""
    found = node.meta.get("val") if isinstance(node, Node) else None
    return found if isinstance(found, Tensor) else None


def call(graph: Graph, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
    """Appends a call at the insertion point, with the FakeTensor that it returns."""
    node = graph.call_function(target, args, kwargs)
    inputs = {argument: value(argument) for argument in node.all_input_nodes}
    fake_args, fake_kwargs = substitute((args, kwargs), inputs)
    modes = [t.fake_mode for t in _fake_tensors((fake_args, fake_kwargs))]
    if modes:
        with modes[0]:
            node.meta["val"] = target(*fake_args, **fake_kwargs)
    else:
        node.meta["val"] = target(*fake_args, **fake_kwargs)
    return node


def substitute(tree: Any, values: dict[Node, Any]) -> Any:
    """Arguments with the nodes in ``values`` replaced; other nodes stay."""
    return tree_map(lambda x: values.get(x, x) if isinstance(x, Node) else x, tree)


def _fake_tensors(tree: Any) -> list[Any]:
    found: list[Any] = []
    tree_map(lambda x: found.append(x) if hasattr(x, "fake_mode") else None, tree)
    return found


def constant(graph: Graph, data: Tensor, like: Node) -> Node:
    """Appends a constant tensor; ``like`` lends its fake mode."""
    module = graph.owning_module
    assert isinstance(module, GraphModule)
    number = 0
    while hasattr(module, f"_binop_constant{number}"):
        number += 1
    name = f"_binop_constant{number}"
    module.register_buffer(name, data)
    node = graph.get_attr(name)
    fake_mode = getattr(tensor(like), "fake_mode", None)
    node.meta["val"] = data if fake_mode is None else fake_mode.from_tensor(data)
    return node


def replace(old: Node, new: Node) -> None:
    """Puts ``new`` in the place of ``old``, which goes, with what only it used."""
    for key in (_MODULE_STACK, "stack_trace", "source_fn_stack", "partitioner_tag"):
        if key in old.meta:
            new.meta.setdefault(key, old.meta[key])
    old.replace_all_uses_with(new)
    erase_unused(old)


def erase_unused(node: Node) -> None:
    """Erases a node without users, and then the calls that only it used."""
    waiting = [node]
    while waiting:
        candidate = waiting.pop()
        if candidate.users or candidate.op != "call_function" or candidate._erased:
            continue
        waiting.extend(candidate.all_input_nodes)
        candidate.graph.erase_node(candidate)


def layer_of(node: Node) -> str:
    """The name of the module that a node comes from (``layers.0.conv``), else the node's own."""
    stack = node.meta.get(_MODULE_STACK)
    if not stack:
        return node.name
    path = str(list(stack.values())[-1][0])
    # Dynamo names the root L['self'] or L['fn'], and indexes a Sequential as in ._modules['0'].
    for root in ("L['self']", "L['fn']", "L['mod']"):
        path = path.removeprefix(root)
    return path.replace("._modules", "").replace("['", ".").replace("']", "").strip(".") or "model"
