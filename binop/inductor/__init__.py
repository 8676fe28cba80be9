"""The compiler plugin: ``torch.compile(model, backend="binop")`` keeps a binarized network packed
from layer to layer.

Importing it imports neither Dynamo nor Inductor.
"""

from __future__ import annotations

from typing import Any

from binop.inductor.backend import binop as backend

__all__ = ["backend", "config_patches"]


def config_patches(configured: dict[str, Any] | None = None) -> dict[str, Any]:
    """Inductor options that add binop's graph pass, for those who configure Inductor themselves.

    ``configured`` are further options; a custom pass among them (or set in
    ``torch._inductor.config``) runs before binop's. ::

        torch.compile(model, options=binop.inductor.config_patches({"freezing": True}))
        torch._inductor.aoti_compile_and_package(
            program, inductor_configs=binop.inductor.config_patches())
    """
    from binop.inductor import passes

    return passes.config_patches(configured)
