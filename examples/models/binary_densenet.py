"""BinaryDenseNet, 28 layers.

Bethge, Yang, Bornstein, Meinel 2019, "Back to Simplicity: How to Train Accurate BNNs from
Scratch?" (arXiv:1906.08637): every layer adds 64 channels to all that came before; between the
blocks, a float 1x1 convolution reduces them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from binop.nn import BinaryConv2d


class Layer(nn.Module):
    """``cat(x, conv(sign(BatchNorm(x))))``."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = BinaryConv2d(inputs, growth, 3, padding=1, bias=False, weight_scale="none")

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(self.norm(x))], 1)


class Transition(nn.Sequential):
    """Half the image, and fewer channels by a float convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.BatchNorm2d(inputs),
            nn.MaxPool2d(2, 2),
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 1, bias=False),
        )


def build(
    width: int = 64,
    classes: int = 1000,
    layers: tuple[int, ...] = (6, 6, 6, 5),
    reductions: tuple[float, ...] = (2.7, 2.7, 2.2),
) -> nn.Sequential:
    """BinaryDenseNet-28 of the paper by default; any image of 64x64 or more.

    Args:
        width: channels of the stem, and what each layer adds.
        layers: binary convolutions of each block.
        reductions: by what the transitions divide the channels; to a multiple of 32.
    """
    parts: list[nn.Module] = [
        nn.Conv2d(3, width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = width
    for block, count in enumerate(layers):
        for _ in range(count):
            parts.append(Layer(channels, width))
            channels += width
        if block < len(layers) - 1:
            outputs = max(1, int(channels / reductions[block]) // 32) * 32
            parts.append(Transition(channels, outputs))
            channels = outputs
    return nn.Sequential(
        *parts,
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, classes),
    )
