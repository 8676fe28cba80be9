"""``torch.compile(model, backend="binop")``: Inductor, with binop's graph pass.

Found through the entry point group ``torch_dynamo_backends``, so that it works without
``import binop``. ``mode`` and ``options`` do what they do for ``backend="inductor"``, because
torch's own class for that backend reads them: ``torch._TorchCompileInductorWrapper`` (private;
torch 2.11 to 2.13 agree on ``(mode, options, dynamic)`` and on ``.config``). ``fullgraph`` and
``dynamic`` act in Dynamo, before any backend.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule

_FREEZING_IS_LATE = (
    "options={'freezing': True} freezes nothing: Dynamo reads torch._inductor.config.freezing "
    "before it calls any backend, Inductor's own included. Set torch._inductor.config.freezing = "
    "True (or TORCHINDUCTOR_FREEZING=1) before the first call"
)


def binop(
    model: GraphModule,
    inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: dict[str, Any] | None = None,
) -> Callable[..., Any]:
    """Compiles one Dynamo graph. Called by ``torch.compile``.

    Raises:
        RuntimeError: for an unknown mode or option, or an option of the wrong type.
    """
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx

    from binop.inductor.passes import config_patches

    inductor = torch._TorchCompileInductorWrapper(mode, options, None)
    if inductor.config.get("freezing") and not config.freezing and not torch.is_grad_enabled():
        warnings.warn(_FREEZING_IS_LATE, stacklevel=2)
    compiled: Any = compile_fx(model, inputs, config_patches=config_patches(inductor.config))
    return compiled


def _reset() -> None:
    """What ``torch.compiler.reset()`` calls: forgets recorded CUDA graphs."""
    trees = sys.modules.get("torch._inductor.cudagraph_trees")
    if trees is not None:
        trees.reset_cudagraph_trees()


binop.reset = _reset  # type: ignore[attr-defined]
