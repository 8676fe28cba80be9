"""The compiler plugin: ``torch.compile(model, backend="binop")`` keeps a binarized network packed
from layer to layer.

Importing it imports neither Dynamo nor Inductor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from binop.inductor.backend import binop as backend

if TYPE_CHECKING:
    from binop.inductor.explanation import Explanation

__all__ = ["backend", "config_patches", "explain"]


def config_patches(configured: dict[str, Any] | None = None) -> dict[str, Any]:
    """Inductor options that add binop's graph pass, for those who configure Inductor themselves.

    ``configured`` are further options; a custom pass among them (or set in
    ``torch._inductor.config``) runs before binop's. ::

        torch.compile(model, options=binop.inductor.config_patches())
        torch._inductor.aoti_compile_and_package(
            program, inductor_configs=binop.inductor.config_patches())
    """
    from binop.inductor import passes

    return passes.config_patches(configured)


def explain(
    model: nn.Module | Callable[..., Any], *example: Tensor, freezing: bool = True
) -> Explanation:
    """Says what ``torch.compile(model, backend="binop")`` does to an inference call; ``print`` the
    result, or ``draw`` it. No code is generated. Forgets what ``torch.compile`` compiled before
    (``torch.compiler.reset``).

    Args:
        model: in eval mode. It is traced, not changed.
        example: the inputs of a call.
        freezing: as ``torch._inductor.config.freezing``: parameters are constants.

    Raises:
        torch._dynamo.exc.Unsupported: where the model breaks the graph.
    """
    from binop.inductor import explanation

    return explanation.explain(model, *example, freezing=freezing)
