"""Contenders that run by a kernel which the plan would not choose, on CUDA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from binop._cuda.choice import Choice
from binop._cuda.mma_tile import FIRST_WITH_MMA
from binop.backends import cuda_obstacle
from binop.bench.clocks import Call
from binop.bench.contender import Contender

MMA = "b1 mma.sync"  # the arithmetic, and the ceiling of it


def mma_available() -> bool:
    """Whether conv_mma runs on the current device."""
    if not torch.cuda.is_available() or cuda_obstacle(torch.cuda.current_device()) is not None:
        return False
    return torch.cuda.get_device_capability() >= FIRST_WITH_MMA


def by_mma(operands: Any, build: Callable[[Any], Contender]) -> Contender:
    """What ``build`` makes, by conv_mma."""
    contender = by_choice(operands, build, Choice("conv_mma"))
    return replace(contender, work=replace(contender.work, arithmetic=MMA))


def by_choice(operands: Any, build: Callable[[Any], Contender], choice: Choice) -> Contender:
    """What ``build`` makes, its convolutions run as chosen."""
    contender = build(operands)
    return replace(contender, calls=[_planned(choice, call) for call in contender.calls])


def _planned(choice: Choice, call: Call) -> Call:
    from binop._cuda import ops

    def planned() -> Tensor:
        with ops.planned_by(choice):
            return call()

    return planned
