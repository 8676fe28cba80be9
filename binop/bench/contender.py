"""One that competes on a case, and how it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from binop.bench.clocks import Call
from binop.bench.work import Work


@dataclass(frozen=True)
class Contender:
    """``calls`` do the same work on different copies of the input; ``check`` raises
    WrongResultError for an output that is not what the case demands."""

    calls: Sequence[Call]
    work: Work
    check: Callable[[Tensor], None] | None = None
    # Whether to list the kernels of a call beside its time (on CUDA).
    by_kernel: bool = False


@dataclass(frozen=True)
class Recipe:
    """How to make a contender from the operands of a case (kept apart: making it may fail)."""

    name: str
    ours: bool
    build: Callable[[Any], Contender]
