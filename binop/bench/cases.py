"""The problems that are measured; the reason of each stands beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

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
    # Contenders beside those of the kind (``contenders.EXTRA``).
    extra: tuple[str, ...] = ()

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
    extra: ClassVar[tuple[str, ...]] = ()

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
    extra: ClassVar[tuple[str, ...]] = ()

    @property
    def shape(self) -> str:
        return f"{self.n},3,{self.size}x{self.size}"


Case = ConvCase | PackCase | NetworkCase

# By conv_mma, which serves the GPUs without Hopper's matrix products: runs on these, too.
_MMA = ("packed-to-packed-mma", "packed-to-float-mma")

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
    ConvCase("c1024-1x1", "layer", 256, 1024, 14, 1024, kernel=1, padding=0),
    # The layers between the stages: neighbouring outputs share fewer inputs.
    ConvCase("s3-stride2", "layer", 256, 256, 14, 256, stride=2),
    ConvCase("s2-stride2", "layer", 256, 128, 28, 128, stride=2),
    # Enough arithmetic to see the tensor cores: first next to the bytes, then alone.
    ConvCase("s5", "layer", 64, 256, 56, 256, extra=_MMA),
    ConvCase("s6", "layer", 64, 1024, 56, 1024, extra=_MMA),
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


def _sibling(name: str, n: int, channels: int, size: int, suffix: str) -> ConvCase:
    """Of a 3x3 layer: a 1x1 kernel or a stride of 2 instead."""
    if suffix == "1x1":
        return ConvCase(f"{name}-1x1", "layer", n, channels, size, channels, kernel=1, padding=0)
    return ConvCase(f"{name}-stride2", "layer", n, channels, size, channels, stride=2)


# Measured when they are asked for: what the layers above leave open, each group under its name.
_GROUPS: dict[str, tuple[Case, ...]] = {
    # The siblings of s1 to s6 that are not in the table above.
    "siblings": (
        _sibling("s4", 256, 512, 7, "1x1"),
        _sibling("s1", 256, 64, 56, "1x1"),
        _sibling("s4", 256, 512, 7, "stride2"),
        _sibling("s1", 256, 64, 56, "stride2"),
        _sibling("s5", 64, 256, 56, "1x1"),
        _sibling("s5", 64, 256, 56, "stride2"),
        _sibling("s6", 64, 1024, 56, "1x1"),
        _sibling("s6", 64, 1024, 56, "stride2"),
    ),
    # Between one image and many: a few tiles for each multiprocessor.
    "batch8": (
        ConvCase("s4-n8", "layer", 8, 512, 7, 512),
        ConvCase("s3-n8", "layer", 8, 256, 14, 256),
        ConvCase("s2-n8", "layer", 8, 128, 28, 128),
        ConvCase("s1-n8", "layer", 8, 64, 56, 64),
    ),
    "channels": (
        ConvCase("c48", "layer", 256, 48, 28, 48),  # the second word half used
        ConvCase("c96", "layer", 256, 96, 28, 96),  # three words: no power of two
        ConvCase("c160", "layer", 256, 160, 14, 160),  # five words
        ConvCase("c1024", "layer", 128, 1024, 14, 1024),  # filters of 1.2 MB
        ConvCase("c2048", "layer", 64, 2048, 14, 2048),  # of 4.7 MB
    ),
}

# One of each kind that a GPU or a slow CPU gets through in seconds.
_QUICK = {"cuda": ("overhead", "s4-n1", "s4", "pack-c64"), "cpu": ("overhead", "n1-c512")}


def groups(device_type: str) -> dict[str, tuple[Case, ...]]:
    """The cases that are measured only when their group, or one of them, is named."""
    return _GROUPS if device_type == "cuda" else {}


def cases(device_type: str, networks: bool = False) -> tuple[Case, ...]:
    """Every op (or network) case that is measured by default, small first."""
    if networks:
        return _NETWORKS[device_type]
    return _CUDA if device_type == "cuda" else _CPU


def select(
    device_type: str, names: list[str] | None, quick: bool, networks: bool = False
) -> tuple[Case, ...]:
    """The cases and groups named, in the tables' order; without names the default, or the quick
    ones."""
    default = cases(device_type, networks)
    by_group = {} if networks else groups(device_type)
    table = (*default, *(case for group in by_group.values() for case in group))
    few = (default[0].name,) if networks else _QUICK[device_type]
    wanted = set(names or (few if quick else (case.name for case in default)))
    for group in wanted & set(by_group):
        wanted |= {case.name for case in by_group[group]}
    known = [case.name for case in table] + list(by_group)
    unknown = sorted(wanted - set(known))
    if unknown:
        raise ValueError(
            f"cases: expected names out of {', '.join(known)}, got {', '.join(unknown)}"
        )
    return tuple(case for case in table if case.name in wanted)
