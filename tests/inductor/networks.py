"""The networks of examples/models, small, with parameters as after training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from binop._explain import load

MODELS = Path(__file__).parents[2] / "examples" / "models"


@dataclass(frozen=True)
class Network:
    """``layers`` binary convolutions, of which ``fused`` put out bits."""

    name: str
    options: dict[str, Any]
    size: int
    layers: int
    fused: int
    pools: int = 0

    def build(self) -> nn.Module:
        build: Callable[..., nn.Module] = load(f"{MODELS / self.name}.py:build")
        model = build(classes=10, **self.options)
        with torch.no_grad():
            for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
                norm.weight.normal_(1.0, 0.7)
                norm.weight[::7] *= -1
                norm.weight[1::9] = 0.0
                norm.bias.normal_(0.0, 0.3)
            model.train()
            for _ in range(3):
                model(self.images(16))
        return model.eval().to(memory_format=torch.channels_last)

    def images(self, count: int) -> Tensor:
        x = torch.randn(count, 3, self.size, self.size)
        return x.contiguous(memory_format=torch.channels_last)


NETWORKS = [
    Network("vgg_bnn", {"width": 32, "resolution": 16, "stages": 2, "dense": 64}, 16, 5, 4, 2),
    Network("bireal_net", {"width": 32, "layers": (2, 2)}, 32, 4, 0),
    Network("reactnet", {"width": 32, "plan": ((2, 1), (4, 2))}, 16, 6, 0),
    Network("quicknet", {"width": 64, "layers": (2, 2)}, 32, 4, 0),
    Network("binary_densenet", {"width": 32, "layers": (2, 2), "reductions": (2.0,)}, 32, 4, 0),
]
