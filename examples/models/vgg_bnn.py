"""A VGG-style binarized network, without residuals.

Hubara, Courbariaux, Soudry, El-Yaniv, Bengio 2016, "Binarized Neural Networks"
(arXiv:1602.02830): pairs of 3x3 convolutions and max-pooling, then two dense layers, each followed
by BatchNorm and hard tanh; activations and weights are signs. Here the first convolution and the
output layer stay in float, as later papers do. Dense layers are convolutions as large as the image.

Compiled, every binary layer but the last takes bits and puts out bits.
"""

from __future__ import annotations

from torch import Tensor, nn

from binop.nn import BinaryConv2d


class BinaryUnit(nn.Module):
    """Binary convolution, max-pool where there is one, BatchNorm, hard tanh."""

    def __init__(self, inputs: int, outputs: int, kernel: int, padding: int, pool: bool) -> None:
        super().__init__()
        # BatchNorm takes any scale of the weights in.
        self.conv = BinaryConv2d(
            inputs, outputs, kernel, padding=padding, bias=False, weight_scale="none"
        )
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = nn.Hardtanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.pool(self.conv(x))))


def build(
    width: int = 128, classes: int = 10, resolution: int = 32, stages: int = 3, dense: int = 1024
) -> nn.Sequential:
    """The CIFAR-10 network of the paper by default.

    Args:
        width: channels of the first stage; each further stage has twice as many (8x at most).
        resolution: height and width of the images, divisible by ``2**stages``.
        stages: pairs of convolutions, each pair with a max-pool.
        dense: features of the two dense layers.
    """
    if resolution % 2**stages:
        raise ValueError(f"build: resolution: expected a multiple of {2**stages}, got {resolution}")
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.Hardtanh(),
        BinaryUnit(width, width, 3, 1, pool=True),
    ]
    channels = width
    for stage in range(1, stages):
        outputs = width * min(2**stage, 8)
        layers.append(BinaryUnit(channels, outputs, 3, 1, pool=False))
        layers.append(BinaryUnit(outputs, outputs, 3, 1, pool=True))
        channels = outputs
    image = resolution // 2**stages
    layers += [
        BinaryUnit(channels, dense, image, 0, pool=False),
        BinaryUnit(dense, dense, 1, 0, pool=False),
        nn.Flatten(),
        nn.Linear(dense, classes),
    ]
    return nn.Sequential(*layers)
