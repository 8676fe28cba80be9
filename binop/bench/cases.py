"""The problems that are measured; the reason of each stands beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from binop.geometry import Conv2dGeometry

Kind = Literal["latency", "layer", "pack", "overhead", "network"]


@dataclass(frozen=True)
class ConvCase:
    """A convolution of ``[n, c, size, size]`` to ``o`` channels by a square kernel."""

    name: str
    kind: Kind
    n: int
    c: int
    size: int
    o: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pad_value: int = 0

    @property
    def geometry(self) -> Conv2dGeometry:
        return Conv2dGeometry(
            self.n,
            self.c,
            self.size,
            self.size,
            self.o,
            (self.kernel, self.kernel),
            (self.stride, self.stride),
            (self.padding, self.padding),
            (1, 1),
            1,
        )

    @property
    def shape(self) -> str:
        text = f"{self.n},{self.c},{self.size}x{self.size} -> {self.o}, {self.kernel}x{self.kernel}"
        return text if self.stride == 1 else f"{text} / {self.stride}"


@dataclass(frozen=True)
class PackCase:
    """``pack`` of ``[n, c, size, size]``."""

    name: str
    n: int
    c: int
    size: int
    kind: Kind = "pack"

    @property
    def shape(self) -> str:
        return f"{self.n},{self.c},{self.size}x{self.size}"


@dataclass(frozen=True)
class NetworkCase:
    """A model of examples/models on ``[n, 3, size, size]``, against a float model ``peer``, or
    without one against itself in float."""

    name: str
    model: str
    n: int
    size: int = 224
    options: dict[str, Any] = field(default_factory=dict)
    peer: str | None = None
    peer_options: dict[str, Any] = field(default_factory=dict)
    kind: Kind = "network"

    @property
    def shape(self) -> str:
        return f"{self.n},3,{self.size}x{self.size}"


Case = ConvCase | PackCase | NetworkCase

_CUDA: tuple[Case, ...] = (
    # So small that the host is the limit: what one eager call costs before the kernel starts.
    ConvCase("overhead", "overhead", 1, 64, 8, 64),
    # The 3x3 layers of a ResNet-18 for one image: too little work to fill a large GPU.
    ConvCase("s4-n1", "latency", 1, 512, 7, 512),
    ConvCase("s3-n1", "latency", 1, 256, 14, 256),
    ConvCase("s2-n1", "latency", 1, 128, 28, 128),
    ConvCase("s1-n1", "latency", 1, 64, 56, 64),
    # The same layers at a training or serving batch.
    ConvCase("s4", "layer", 256, 512, 7, 512),  # most weights per pixel, rows of 7
    ConvCase("s3", "layer", 256, 256, 14, 256),
    ConvCase("s2", "layer", 256, 128, 28, 128),
    ConvCase("s1", "layer", 256, 64, 56, 64),  # most bytes per operation
    # A matrix product: nine times fewer operations on the same bytes.
    ConvCase("s3-1x1", "layer", 256, 256, 14, 256, kernel=1, padding=0),
    ConvCase("s2-1x1", "layer", 256, 128, 28, 128, kernel=1, padding=0),
    # The layers between the stages: neighbouring outputs share fewer inputs.
    ConvCase("s3-stride2", "layer", 256, 256, 14, 256, stride=2),
    ConvCase("s2-stride2", "layer", 256, 128, 28, 128, stride=2),
    # Enough arithmetic to see the tensor cores: first next to the bytes, then alone.
    ConvCase("s5", "layer", 64, 256, 56, 256),
    ConvCase("s6", "layer", 64, 1024, 56, 1024),
    # About 100 MB of bfloat16: few words a pixel and many.
    PackCase("pack-c64", 256, 64, 56),
    PackCase("pack-c256", 64, 256, 56),
)

_CPU: tuple[Case, ...] = (
    # So small that the call itself is the limit.
    ConvCase("overhead", "overhead", 1, 32, 8, 32),
    # The 3x3 layers of a ResNet-18 for one image, as on an edge device.
    ConvCase("n1-c512", "layer", 1, 512, 7, 512),
    ConvCase("n1-c256", "layer", 1, 256, 14, 256),
    ConvCase("n1-c128", "layer", 1, 128, 28, 128),
    ConvCase("n1-c64", "layer", 1, 64, 56, 64),
    # A small batch: enough rows for every thread, and beyond the second-level cache.
    ConvCase("n8-c256", "layer", 8, 256, 14, 256),
    ConvCase("n8-c128", "layer", 8, 128, 28, 128),
    # About 100 MB of float32.
    PackCase("pack-c64", 128, 64, 56),
    PackCase("pack-c256", 32, 256, 56),
)

# A VGG-16 without its stem's second convolution: every layer from bits to bits.
_VGG = {"width": 64, "classes": 1000, "resolution": 224, "stages": 5, "dense": 4096}
_NETWORKS: dict[str, tuple[Case, ...]] = {
    "cuda": (
        NetworkCase("bireal18-n1", "bireal_net", 1, peer="resnet"),
        NetworkCase("vgg-n1", "vgg_bnn", 1, options=_VGG),
        NetworkCase("bireal18", "bireal_net", 256, peer="resnet"),
        NetworkCase("vgg", "vgg_bnn", 256, options=_VGG),
    ),
    "cpu": (
        NetworkCase("bireal18-n1", "bireal_net", 1, peer="resnet"),
        NetworkCase("vgg-n1", "vgg_bnn", 1, options=_VGG),
    ),
}

# One of each kind that a GPU or a slow CPU gets through in seconds.
_QUICK = {"cuda": ("overhead", "s4-n1", "s4", "pack-c64"), "cpu": ("overhead", "n1-c512")}


def cases(device_type: str, networks: bool = False) -> tuple[Case, ...]:
    """Every op (or network) case of a kind of device, small first."""
    if networks:
        return _NETWORKS[device_type]
    return _CUDA if device_type == "cuda" else _CPU


def select(
    device_type: str, names: list[str] | None, quick: bool, networks: bool = False
) -> tuple[Case, ...]:
    """The cases named, in the table's order; without names all, or the quick ones."""
    table = cases(device_type, networks)
    known = [case.name for case in table]
    few = known[:1] if networks else _QUICK[device_type]
    wanted = names or (few if quick else known)
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise ValueError(
            f"cases: expected names out of {', '.join(known)}, got {', '.join(unknown)}"
        )
    return tuple(case for case in table if case.name in wanted)
