"""What the plugin makes of a model, layer by layer, without generating code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from binop.inductor import fuse_stem, fuse_threshold, join_pack, lower_conv
from binop.inductor.chain import CONVOLUTIONS
from binop.inductor.constants import Constants
from binop.inductor.graph import arguments, is_op, layer_of
from binop.inductor.passes import rewrite
from binop.inductor.report import Outcome, recording
from binop.inductor.traffic import Kernel, kernels

_ops = torch.ops.binop
_THRESHOLD = _ops.binary_conv2d_threshold.default
_BITS_OF_FLOATS = _ops.stem_conv2d_threshold.default


@dataclass(frozen=True)
class Layer:
    """A binary convolution: where its input bits come from, and what it puts out."""

    name: str
    input: str
    output: str


@dataclass
class Explanation:
    """``print`` it, or look at its parts.

    ``layers`` in the order of execution, ``outcomes`` of every rewrite, and an estimate of the
    bytes that a call moves through memory, by kernel, before and after.
    """

    layers: list[Layer] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    before: list[Kernel] = field(default_factory=list)
    after: list[Kernel] = field(default_factory=list)

    @property
    def bytes_before(self) -> int:
        return sum(kernel.bytes for kernel in self.before)

    @property
    def bytes_after(self) -> int:
        return sum(kernel.bytes for kernel in self.after)

    def __str__(self) -> str:
        rows = [("layer", "input", "output"), *((r.name, r.input, r.output) for r in self.layers)]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows]
        stems = [outcome for outcome in self.outcomes if outcome.rewrite == fuse_stem.NAME]
        lines += ["", *map(str, stems)] if stems else []
        before, after = self.bytes_before, self.bytes_after
        lines += [
            "",
            f"{len(self.layers)} binary convolutions, "
            f"{sum(layer.output.startswith('bits') for layer in self.layers)} put out bits",
            f"bytes through memory a call, estimated: {before / 1e6:.2f} MB -> "
            f"{after / 1e6:.2f} MB ({before / max(after, 1):.2f}x less), "
            f"{len(self.before)} -> {len(self.after)} kernels",
        ]
        return "\n".join(line.rstrip() for line in lines)

    def draw(self, path: str | Path) -> None:
        """Draws the rewritten graph into a picture (needs matplotlib)."""
        from binop.inductor import picture

        picture.draw(self.after, Path(path))


def explain(
    model: nn.Module | Callable[..., Any], *example: Tensor, freezing: bool = True
) -> Explanation:
    """See ``binop.inductor.explain``."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func  # type: ignore[attr-defined]
    from torch._inductor import config
    from torch._inductor.decomposition import select_decomp_table

    result = Explanation()

    def look(module: GraphModule, inputs: list[Tensor]) -> Any:
        result.before += kernels(module.graph, Constants(module.graph))
        with recording() as outcomes:
            rewrite(module.graph)
        result.outcomes += outcomes
        result.layers += _layers(module.graph, outcomes)
        join_pack.run(module.graph)
        result.after += kernels(module.graph, Constants(module.graph))
        module.recompile()
        return make_boxed_func(module.forward)

    backend = aot_autograd(
        fw_compiler=look, inference_compiler=look, decompositions=select_decomp_table()
    )
    torch.compiler.reset()
    with torch.no_grad(), config.patch(freezing=freezing):
        torch.compile(model, backend=backend, fullgraph=True)(*example)
    torch.compiler.reset()
    return result


def _layers(graph: Graph, outcomes: list[Outcome]) -> list[Layer]:
    thresholds = {o.layer: o for o in outcomes if o.rewrite == fuse_threshold.NAME and o.done}
    kept = {o.layer: o.detail for o in outcomes if o.rewrite == lower_conv.NAME and not o.done}
    reasons = {
        o.layer: o.detail for o in outcomes if o.rewrite == fuse_threshold.NAME and not o.done
    }
    found = []
    for node in graph.nodes:
        name = layer_of(node)
        if is_op(node, _ops.binary_conv2d.default):
            found.append(Layer(name, "floats", f"floats; left as it is: {kept.get(name, '')}"))
        elif is_op(node, *CONVOLUTIONS):
            found.append(Layer(name, _source(node, reasons), "floats"))
        elif is_op(node, _THRESHOLD):
            detail = thresholds[name].detail if name in thresholds else "threshold"
            found.append(Layer(name, _source(node, reasons), f"bits ({detail})"))
    return found


def _source(convolution: Node, reasons: dict[str, str]) -> str:
    """Where a convolution's bits come from."""
    names: dict[str, None] = {}
    waiting: list[Node] = [arguments(convolution)["x"]]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if is_op(node, _THRESHOLD, _BITS_OF_FLOATS):
            names[f"bits of {layer_of(node)}"] = None
        elif is_op(node, _ops.pack.default):
            reason = reasons.get(layer_of(node))
            names[f"packs floats: {reason}" if reason else "packs floats"] = None
        elif node.op == "placeholder":
            names["bits from outside"] = None
        elif not is_op(node, torch.ops.aten.view.default):  # The words that invert bits.
            waiting.extend(node.all_input_nodes)
    return " + ".join(names)
