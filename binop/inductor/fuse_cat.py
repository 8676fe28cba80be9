"""``pack(cat([a, b], 1))`` -> ``cat([pack(a), pack(b)], 3)``, where all pieces but the last fill
whole words.

Only where it saves something: the float concatenation has no other reader, so that it goes, or
a piece is packed already (as in a dense block, where a piece is what the layer before read).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

from binop import packing
from binop.inductor import report
from binop.inductor.graph import arguments, call, is_op, replace, value

NAME = "cat of words"
_ops = torch.ops.binop
_aten = torch.ops.aten


def run(graph: Graph) -> None:
    waiting = [node for node in graph.nodes if is_op(node, _ops.pack.default)]
    while waiting:
        node = waiting.pop()
        source: Any = node.args[0]
        if not is_op(source, _aten.cat.default):
            continue
        reason = _obstacle(source)
        if reason is None:
            waiting.extend(_rewrite(graph, node, source))
        else:
            report.left(NAME, node, reason)


def _obstacle(cat: Node) -> str | None:
    values = arguments(cat)
    pieces = values["tensors"]
    if values["dim"] % value(cat).ndim != 1:
        return "it does not concatenate channels"
    sizes = [value(piece).shape[1] for piece in pieces]
    if not all(isinstance(size, int) for size in sizes):
        return "channels are symbolic"
    if any(size % packing.WORD_BITS for size in sizes[:-1]):
        return f"its pieces of {sizes} channels do not fill whole words"
    if any(value(piece).dtype is not value(cat).dtype for piece in pieces):
        return "its pieces differ in dtype"
    alone = all(is_op(user, _ops.pack.default) for user in cat.users)
    if not alone and not any(is_op(u, _ops.pack.default) for piece in pieces for u in piece.users):
        return "its floats are needed anyway, and no piece is packed yet"
    return None


def _rewrite(graph: Graph, node: Node, cat: Node) -> list[Node]:
    """The new packs, which may stand on concatenations again."""
    with graph.inserting_before(node):
        packs = [call(graph, _ops.pack.default, piece) for piece in arguments(cat)["tensors"]]
        new = call(graph, _aten.cat.default, packs, 3)
    report.done(NAME, node, f"{len(packs)} pieces")
    replace(node, new)
    return packs
