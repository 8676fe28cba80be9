"""One ``pack`` for all that read the same tensor.

AOTAutograd merges equal calls only before our rewrites, which add new ones.
"""

from __future__ import annotations

import operator

import torch
from torch.fx import Graph, Node

from binop.inductor import report
from binop.inductor.graph import is_op, replace

NAME = "pack shared"
_ops = torch.ops.binop


def run(graph: Graph) -> None:
    """Expects topological order: the first ``pack`` of a tensor serves the later ones."""
    first: dict[Node, Node] = {}
    for node in list(graph.nodes):
        if is_op(node, operator.getitem) and node.args[1] == 0:
            source = node.args[0]
            if is_op(source, _ops.pack_with_mask.default):
                first.setdefault(source.args[0], node)
        elif is_op(node, _ops.pack.default):
            kept = first.setdefault(node.args[0], node)
            if kept is not node:
                report.done(NAME, node, f"with {kept.name}")
                replace(node, kept)
