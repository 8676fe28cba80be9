"""ReActNet, on the plan of MobileNet v1.

Liu, Shen, Savvides, Cheng 2020, "ReActNet: Towards Precise Binary Neural Network with Generalized
Activation Functions" (arXiv:2003.03488): learned shifts before the sign (RSign) and around PReLU
(RPReLU), a shortcut around every convolution; a doubling of channels is two convolutions side by
side over a duplicated shortcut.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from binop.nn import BinaryConv2d

# Output channels in units of the width, and stride, of the 13 blocks of MobileNet v1.
_PLAN = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *[(16, 1)] * 5, (32, 2), (32, 1))


class Shift(nn.Module):
    """A learned shift of each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


class RPReLU(nn.Sequential):
    """PReLU between two learned shifts."""

    def __init__(self, channels: int) -> None:
        super().__init__(Shift(channels), nn.PReLU(channels), Shift(channels))


class RSign(nn.Module):
    """A learned shift, and the gradient of Bi-Real Net's surrogate of the sign that follows."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = Shift(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shift(x)
        if not self.training:
            return x
        clamped = x.clamp(-1, 1)
        return clamped * (2 - clamped.abs())


def _conv(inputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        BinaryConv2d(
            inputs, inputs, kernel, stride, padding=kernel // 2, bias=False, clip=math.inf
        ),
        nn.BatchNorm2d(inputs),
    )


class Block(nn.Module):
    """A 3x3 convolution, then a 1x1 convolution, or two of them to double the channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        if outputs not in (inputs, 2 * inputs):
            raise ValueError(f"Block: outputs: expected {inputs} or {2 * inputs}, got {outputs}")
        self.sign3 = RSign(inputs)
        self.conv3 = _conv(inputs, 3, stride)
        self.shortcut = nn.AvgPool2d(2, 2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.activation3 = RPReLU(inputs)
        self.sign1 = RSign(inputs)
        self.conv1 = nn.ModuleList(_conv(inputs, 1) for _ in range(outputs // inputs))
        self.activation1 = RPReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation3(self.conv3(self.sign3(x)) + self.shortcut(x))
        signed = self.sign1(x)
        branches = [conv(signed) + x for conv in self.conv1]
        y = branches[0] if len(branches) == 1 else torch.cat(branches, 1)
        return self.activation1(y)


def build(
    width: int = 32, classes: int = 1000, plan: tuple[tuple[int, int], ...] = _PLAN
) -> nn.Sequential:
    """ReActNet-A of the paper by default; any image of 32x32 or more.

    Args:
        width: channels of the float stem.
        plan: (output channels over width, stride) of each block.
    """
    blocks: list[nn.Module] = []
    channels = width
    for factor, stride in plan:
        blocks.append(Block(channels, width * factor, stride))
        channels = width * factor
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1, bias=False),
        nn.BatchNorm2d(width),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, classes),
    )
