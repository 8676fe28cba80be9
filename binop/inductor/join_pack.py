"""``binary_conv2d_packed(pack(x), ...)`` -> ``pack_and_convolve(x, ...)``, where nothing else reads
the words.

The last rewrite: the others look for ``pack``. For one 8x8 image of 64 channels (3x3, 64 filters;
one thread of an EPYC with AVX2) the two ops take 35 us and the one 24, where the library's part of
either is 9.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

from binop.inductor import report
from binop.inductor.graph import arguments, call, erase_unused, is_op, replace, value

NAME = "pack in the convolution"
_ops = torch.ops.binop

# Kinds of devices whose backend does both in one. Part of the pass's identity for caches.
DEVICES: set[str] = {"cpu"}


def run(graph: Graph) -> None:
    for node in list(graph.nodes):
        if is_op(node, _ops.binary_conv2d_packed.explicit) and value(node).device.type in DEVICES:
            values = arguments(node)
            if is_op(values["x"], _ops.pack.default) and _fits(values):
                _join(graph, node, values)


def _fits(values: dict[str, Any]) -> bool:
    signs = values["x"]
    floats = value(signs.args[0])
    return (
        len(signs.users) == 1
        and values["bias"] is None
        and floats.is_floating_point()
        and floats.dtype is values["out_dtype"]
        and floats.dtype is not torch.float64
        # Another channel count could fill as many words.
        and isinstance(floats.shape[1], int)
        and floats.shape[1] == values["channels"]
    )


def _join(graph: Graph, node: Node, values: dict[str, Any]) -> None:
    signs = values["x"]
    options = [*values["stride"], *values["padding"], *values["dilation"]]
    with graph.inserting_before(node):
        new = call(
            graph,
            _ops.pack_and_convolve.default,
            signs.args[0],
            values["weight"],
            values["scale"],
            [*options, values["groups"], values["pad_value"]],
        )
    report.done(NAME, node, f"of {value(signs.args[0]).dtype}")
    replace(node, new)
    erase_unused(signs)
