"""ResNet-18 in float, which binary networks are compared with.

He, Zhang, Ren, Sun 2015, "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), with
projection shortcuts (their option B).
"""

from __future__ import annotations

from torch import Tensor, nn


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut around both."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _conv_norm(inputs, outputs, 3, stride)
        self.second = _conv_norm(outputs, outputs, 3, 1)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = _conv_norm(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.first(x).relu()) + self.shortcut(x)).relu()


def build(
    width: int = 64, classes: int = 1000, blocks: tuple[int, ...] = (2, 2, 2, 2)
) -> nn.Sequential:
    """The ImageNet network of the paper by default; any image of 32x32 or more.

    Args:
        width: channels of the first stage; each further stage has twice as many.
        blocks: blocks of two convolutions in each stage.
    """
    layers: list[nn.Module] = []
    channels = width
    for stage, count in enumerate(blocks):
        for index in range(count):
            outputs = width * 2**stage
            layers.append(Block(channels, outputs, 2 if stage > 0 and index == 0 else 1))
            channels = outputs
    return nn.Sequential(
        nn.Conv2d(3, width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        *layers,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, classes),
    )
