"""``pack`` written out as ATen ops, so that Inductor makes one kernel of it and of the pointwise
operations before it (scale, BatchNorm, residual, PReLU, shift), which saves reading the floats
again.

A choice by device:

- CUDA: written out. The kernel is bound by memory: it reads the convolution's output and the
  residual and writes their sum, and the bits come from registers, where ``pack`` would read the
  sum again. On an H200, 256 images of 224x224 in bfloat16: Bi-Real Net 18 3.32 ms, with the op
  3.47; VGG 4.36 and 4.76. One image: 172 and 171 us, 118 and 122. (``python -m binop bench
  --networks``.)
- CPU: the op. Inductor's C++ makes bits element by element: on one thread of an EPYC with
  AVX-512, BatchNorm + residual + PReLU on ``[1, 64, 56, 56]`` takes 86 us, and with the bits 395
  (a sum of shifted bits) or 235 (32 ORs); a copy of the tensor takes 25, which is about what a
  vectorized ``pack`` takes. ``[16, 64, 56, 56]``: 1.7 ms, 7.0, 4.3 and 1.1.

Only in inference: in training the partitioner could keep the floats and make the bits again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

from binop.inductor import report
from binop.inductor.bits import INTEGER_VIEW, pack
from binop.inductor.chain import EXACT_OPS
from binop.inductor.graph import is_op, layer_of, replace, value

NAME = "pack in the pointwise kernel"
_ops = torch.ops.binop

# Kinds of devices where packs are written out. Part of the pass's identity for caches.
DEVICES: set[str] = {"cuda"}


def run(graph: Graph) -> None:
    for node in list(graph.nodes):
        if is_op(node, _ops.pack.default) and value(node).device.type in DEVICES:
            reason = _obstacle(node)
            if reason is None:
                _expand(graph, node)
            else:
                report.left(NAME, node, reason)


def _obstacle(node: Node) -> str | None:
    source: Any = node.args[0]
    if source.op != "call_function" or source.target not in EXACT_OPS:
        return "it reads a tensor that is in memory anyway"
    if value(source).dtype not in INTEGER_VIEW:
        return f"{value(source).dtype} has no integer view"
    if not isinstance(value(source).shape[1], int):
        return "its channels are symbolic"
    return None


def _expand(graph: Graph, node: Node) -> None:
    source: Any = node.args[0]
    with graph.inserting_before(node):
        words = pack(graph, source)
    report.done(NAME, node, f"after {layer_of(source)}")
    replace(node, words)
