"""Reads a threshold off the decisions for all dots, in ascending order of the dot."""

from __future__ import annotations

import torch
from torch import Tensor

from binop.inductor.evaluate import Dots


def flips(decisions: Tensor) -> Tensor:
    """How often the decision changes, per channel; ``decisions`` is bool ``[channels, count]``."""
    return (decisions[:, 1:] != decisions[:, :-1]).sum(1)


def read_off(decisions: Tensor, dots: Dots) -> tuple[Tensor, Tensor]:
    """``threshold`` (int32) and ``flip`` (bool), ``[channels]``, with
    ``decision == (dot >= threshold) ^ flip``, for decisions that flip at most once."""
    first = decisions[:, :1]
    before = (decisions == first).sum(1)
    threshold = dots.first + dots.step * before
    return threshold.to(torch.int32), first[:, 0].clone()
