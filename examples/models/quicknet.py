"""QuickNet.

Bannink, Bakhtiari, Hillier, Geiger, de Bruin, Overweel, Neeven, Helwegen 2021, "Larq Compute
Engine: Design, Benchmark, and Deploy State-of-the-Art Binarized Neural Networks"
(arXiv:2011.09398): a cheap stem, residual blocks of one binary convolution whose padding counts
as +1 and whose ReLU stands before BatchNorm, and transitions that pool with an antialiasing blur
before a 1x1 float convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binop.nn import BinaryConv2d


class Block(nn.Module):
    """``x + BatchNorm(relu(conv(sign(x))))``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = BinaryConv2d(
            channels, channels, 3, padding=1, bias=False, pad_value=1, weight_scale="none"
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x).relu())


class BlurPool(nn.Module):
    """Max-pool, then a binomial 3x3 filter at stride 2 (Zhang 2019, arXiv:1904.11486)."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        kernel = torch.outer(line, line).expand(channels, 1, 3, 3).clone()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(x, 3, 1, 1)
        return F.conv2d(x, self.kernel, None, 2, 1, groups=x.shape[1])


class Transition(nn.Sequential):
    """To another number of channels, and half the image."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.ReLU(),
            BlurPool(inputs),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )


def build(
    width: int = 64, classes: int = 1000, layers: tuple[int, ...] = (4, 4, 4, 4)
) -> nn.Sequential:
    """QuickNet of the paper by default; any image of 32x32 or more.

    Args:
        width: channels of the first stage; each further stage has twice as many.
        layers: residual blocks of each stage.
    """
    stem = width // 8
    parts: list[nn.Module] = [
        nn.Conv2d(3, stem, 3, 2, 1, bias=False),
        nn.BatchNorm2d(stem),
        nn.ReLU(),
        nn.Conv2d(stem, stem, 3, 2, 1, groups=stem, bias=False),
        nn.BatchNorm2d(stem),
        nn.Conv2d(stem, width, 1, bias=False),
        nn.BatchNorm2d(width),
    ]
    channels = width
    for stage, count in enumerate(layers):
        if stage > 0:
            parts.append(Transition(channels, width * 2**stage))
            channels = width * 2**stage
        parts += [Block(channels) for _ in range(count)]
    return nn.Sequential(
        *parts, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )
