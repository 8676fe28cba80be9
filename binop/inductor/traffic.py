"""An estimate of the bytes that a graph moves through memory.

Counted per kernel as Inductor would make them: each operator that is not pointwise reads its
tensors once and writes its result once; pointwise operators are one kernel up to the next
tensor that something else reads. Constants count where they are read; what follows from
constants alone is computed while compiling. Caches are not modelled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Graph, Node

from binop.inductor.chain import EXACT_OPS
from binop.inductor.constants import Constants
from binop.inductor.graph import tensor

_aten = torch.ops.aten

# They only rename or index memory.
_VIEWS = frozenset(
    {
        _aten.alias.default,
        _aten.expand.default,
        _aten.permute.default,
        _aten.slice.Tensor,
        _aten.squeeze.dim,
        _aten.unsqueeze.default,
        _aten.view.default,
        _aten.view.dtype,
    }
)


@dataclass(frozen=True)
class Kernel:
    """One kernel: the tensor that it writes, and those that it reads."""

    output: Node
    inputs: tuple[Node, ...]

    @property
    def bytes(self) -> int:
        return sum(size_of(node) for node in (self.output, *self.inputs))


def kernels(graph: Graph, constants: Constants) -> list[Kernel]:
    """The kernels of an inference graph, in order."""
    found = []
    for node in graph.nodes:
        if node.op == "call_function" and constants.get(node) is None and _is_written(node):
            inputs = _stored(node.all_input_nodes, constants)
            found.append(Kernel(node, tuple(inputs)))
    return found


def size_of(node: Node) -> int:
    """Bytes of what a node stands for; symbolic sizes count as they were when traced."""
    found = node.meta.get("val")
    parts = found if isinstance(found, tuple | list) else (found,)
    return sum(_hint(t.numel()) * t.element_size() for t in parts if isinstance(t, Tensor))


def _hint(size: int | torch.SymInt) -> int:
    if isinstance(size, int):
        return size
    return int(size.node.hint or 0)


def _is_inline(node: Node) -> bool:
    """Whether Inductor computes a node inside the kernel that reads it."""
    if node.op != "call_function":
        return False
    if node.target in _VIEWS or tensor(node) is None:
        return True  # sizes, and the parts of a tuple
    name = str(node.target)
    return node.target in EXACT_OPS or name.startswith(("aten.bitwise", "aten.full", "prims.iota"))


def _is_written(node: Node) -> bool:
    if not _is_inline(node):
        return True
    if node.target in _VIEWS or tensor(node) is None:
        return False
    return any(not _is_inline(user) for user in node.users)


def _stored(nodes: Iterable[Node], constants: Constants) -> list[Node]:
    """The tensors in memory that these nodes are computed from."""
    found: dict[Node, None] = {}
    seen: set[Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        in_memory = node.op != "call_function" or _is_written(node)
        if in_memory or constants.get(node) is not None:
            found[node] = None
        else:
            waiting.extend(node.all_input_nodes)
    return list(found)
