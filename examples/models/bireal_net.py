"""Bi-Real Net, 18 layers.

Liu, Wu, Luo, Yang, Liu, Cheng 2018, "Bi-Real Net: Enhancing the Performance of 1-bit CNNs with
Improved Representational Capability and Advanced Training Algorithm" (arXiv:1808.00278): a ResNet
with a shortcut around every binary convolution, so that real-valued activations reach the end,
and a piecewise quadratic surrogate for the gradient of the sign.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from binop.nn import BinaryConv2d


class ApproxSign(nn.Module):
    """Before a binary convolution: the paper's gradient of the sign, ``2 - 2 abs(x)`` in [-1, 1].

    It returns ``c * (2 - abs(c))`` of the clamped input, whose sign is that of ``x``; in eval
    mode, where only the sign counts, ``x`` itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        clamped = x.clamp(-1, 1)
        return clamped * (2 - clamped.abs())


class Block(nn.Module):
    """``x + BatchNorm(conv(sign(x)))``; at a stride, the shortcut is pooled and projected."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.sign = ApproxSign()
        self.conv = BinaryConv2d(inputs, outputs, 3, stride, padding=1, bias=False, clip=math.inf)
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, stride, ceil_mode=True),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.sign(x))) + self.shortcut(x)


def build(
    width: int = 64, classes: int = 1000, layers: tuple[int, ...] = (4, 4, 4, 4)
) -> nn.Sequential:
    """The ImageNet network of the paper by default; any image of 32x32 or more.

    Args:
        width: channels of the first stage; each further stage has twice as many.
        layers: binary convolutions of each stage.
    """
    blocks: list[nn.Module] = []
    channels = width
    for stage, count in enumerate(layers):
        outputs = width * 2**stage
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            blocks.append(Block(channels, outputs, stride))
            channels = outputs
    return nn.Sequential(
        nn.Conv2d(3, width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.MaxPool2d(3, 2, 1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, classes),
    )
