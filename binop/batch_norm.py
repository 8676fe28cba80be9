"""A BatchNorm with fixed statistics, as what it computes with."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class BatchNorm(NamedTuple):
    """``weight``, ``bias``, ``mean`` and ``var`` have one value per channel."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    eps: float

    def apply(self, y: Tensor) -> Tensor:
        """``nn.BatchNorm2d`` in eval mode."""
        return torch.batch_norm(
            y,
            self.weight,
            self.bias,
            self.mean,
            self.var,
            training=False,
            momentum=0.0,
            eps=self.eps,
            cudnn_enabled=False,
        )
