"""Values that are known while compiling: what freezing makes constant, and what follows from it.

Parameters count as constants only where Inductor freezes them too
(``torch._inductor.config.freezing`` and gradients off): otherwise they may change in place
between calls. They come from where Inductor's own freezing takes them, the private
``torch._guards.TracingContext.params_flat_unwrap_subclasses`` (torch 2.11 to 2.13).
"""

from __future__ import annotations

from operator import attrgetter

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.utils._python_dispatch import _disable_current_modes

from binop.inductor.graph import substitute

# A longer computation on parameters than this would be a network of its own.
_MOST_NODES = 1000


class Constants:
    """The constants of one graph; each is computed when first asked for, by ATen's own ops (as
    Inductor's constant folding does)."""

    def __init__(self, graph: Graph) -> None:
        self._values: dict[Node, Tensor | None] = {}
        self._module = graph.owning_module
        self._frozen = _frozen_parameters(graph)

    def get(self, node: Node) -> Tensor | None:
        """The value of a node; None if it depends on an input that may change."""
        if node not in self._values:
            with _disable_current_modes(), torch.no_grad():
                self._values[node] = self._compute(node)
        return self._values[node]

    def _compute(self, node: Node) -> Tensor | None:
        if node.op == "placeholder":
            return self._frozen.get(node)
        if node.op == "get_attr":
            return self._attribute(node)
        if node.op != "call_function" or len(self._values) > _MOST_NODES:
            return None
        if not isinstance(node.target, torch._ops.OpOverload):
            return None
        if torch.Tag.nondeterministic_seeded in node.target.tags or node.target._schema.is_mutable:
            return None
        known = {argument: self.get(argument) for argument in node.all_input_nodes}
        if any(found is None for found in known.values()):
            return None
        args, kwargs = substitute((node.args, node.kwargs), known)
        result = node.target(*args, **kwargs)
        return result if isinstance(result, Tensor) else None

    def _attribute(self, node: Node) -> Tensor | None:
        from torch._inductor import config
        from torch._inductor.virtualized import V

        # Ahead of time, parameters are attributes that the loaded model may still exchange.
        if V.aot_compilation and not config.freezing:
            return None
        found = attrgetter(str(node.target))(self._module)
        return found if isinstance(found, Tensor) else None


def _frozen_parameters(graph: Graph) -> dict[Node, Tensor]:
    from torch._inductor import config

    if not config.freezing or torch.is_grad_enabled():
        return {}
    context = torch._guards.TracingContext.try_get()
    if context is None or not context.params_flat_unwrap_subclasses or context.fw_metadata is None:
        return {}
    metadata = context.fw_metadata
    aliased = {info.base_idx for info in metadata.output_info}
    placeholders = graph.find_nodes(op="placeholder")
    return {
        node: parameter
        for index, (parameter, node) in enumerate(
            zip(context.params_flat_unwrap_subclasses, placeholders, strict=False)
        )
        if isinstance(parameter, Tensor)
        and index not in aliased
        and not metadata.input_info[index].mutates_data
    }
