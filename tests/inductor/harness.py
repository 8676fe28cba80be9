"""Runs binop's graph pass on the graphs that AOTAutograd makes, without Inductor's code generator:
a rewritten graph is executed by torch itself, in a second instead of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor import config
from torch._inductor.decomposition import select_decomp_table
from torch.fx import GraphModule

from binop.inductor import passes
from binop.inductor.report import Outcome, recording


@dataclass
class Rewritten:
    """What came out; ``before`` and ``after`` are the graphs, a line a node."""

    output: Any = None
    before: str = ""
    after: str = ""
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def counts(self) -> Counter[str]:
        return Counter(outcome.rewrite for outcome in self.outcomes if outcome.done)

    @property
    def reasons(self) -> list[str]:
        return [outcome.detail for outcome in self.outcomes if not outcome.done]


def rewrite(model: Callable[..., Any], *inputs: Tensor, freezing: bool = True) -> Rewritten:
    """Compiles an inference call, rewritten by the pass and run by torch."""
    with _capturing(model, freezing) as (compiled, result), torch.no_grad():
        result.output = compiled(*inputs)
    return result


def rewrite_training(model: Callable[..., Any], *inputs: Tensor) -> Rewritten:
    """Compiles a call with gradients; the graphs are the joint ones."""
    with _capturing(model, freezing=False) as (compiled, result):
        result.output = compiled(*inputs)
    return result


@contextmanager
def _capturing(model: Callable[..., Any], freezing: bool) -> Iterator[tuple[Any, Rewritten]]:
    torch.compiler.reset()
    result = Rewritten()

    def run_pass(module: GraphModule) -> None:
        result.before = listing(module)
        passes.rewrite(module.graph)
        module.recompile()
        result.after = listing(module)

    def inference(module: GraphModule, inputs: list[Tensor]) -> Any:
        run_pass(module)
        return make_boxed_func(module.forward)

    def partition(module: GraphModule, inputs: Any, **options: Any) -> Any:
        run_pass(module)
        return min_cut_rematerialization_partition(module, inputs, **options)

    backend = aot_autograd(
        fw_compiler=lambda module, inputs: make_boxed_func(module.forward),
        bw_compiler=lambda module, inputs: make_boxed_func(module.forward),
        inference_compiler=inference,
        partition_fn=partition,
        decompositions=select_decomp_table(),
    )
    with config.patch(freezing=freezing), recording() as outcomes:
        result.outcomes = outcomes
        yield torch.compile(model, backend=backend, fullgraph=True), result


def listing(module: GraphModule) -> str:
    """One line a node: ``name = target(arguments)``."""
    lines = []
    for node in module.graph.nodes:
        if node.op == "call_function":
            arguments = ", ".join(str(a) for a in (*node.args, *node.kwargs.items()))
            lines.append(f"{node.name} = {node.target}({arguments})")
        elif node.op == "get_attr":
            lines.append(f"{node.name} = constant")
        elif node.op == "output":
            lines.append(f"return {node.args[0]}")
    return "\n".join(lines)
