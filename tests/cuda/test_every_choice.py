"""Every kernel and tile that tuning may choose, at the size of real layers: blocks walk over many
tiles, with as many products under way as there can be. Small cases hide what is a race."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import ModuleType

import pytest
import torch

from binop import reference
from binop._cuda.conv_call import ConvCall
from binop._cuda.conv_kernels import choices
from binop._cuda.launches import Device
from binop.geometry import Conv2dGeometry
from binop.packing import WORD_BITS

# A kernel that waits forever is killed with its process: a signal would wait for the device.
pytestmark = [pytest.mark.cuda, pytest.mark.timeout(600, method="thread")]

_LAUNCHES = 3


def _layer(batch: int, channels: int, size: int, out_channels: int) -> Conv2dGeometry:
    geometry = (batch, channels, size, size, out_channels, (3, 3), (1, 1), (1, 1), (1, 1), 1)
    return Conv2dGeometry(*geometry)


LAYERS = {
    "s1": _layer(64, 64, 56, 64),
    "s2-stride2": replace(_layer(128, 128, 28, 128), stride=(2, 2)),
    "s3": _layer(128, 256, 14, 256),
    "s4": _layer(256, 512, 7, 512),
    "c96": _layer(128, 96, 28, 96),
    "1x1": replace(_layer(64, 1024, 14, 256), kernel=(1, 1), padding=(0, 0)),
    "few-patches-in-flight": _layer(2, 512, 112, 128),  # of an image so wide
}


@pytest.fixture
def device() -> Device:
    from binop._cuda.launch import device_facts

    return device_facts(torch.cuda.current_device())


def _words(*shape: int) -> torch.Tensor:
    return torch.randint(-(2**31), 2**31, shape, dtype=torch.int32, device="cuda")


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("packs", [True, False], ids=["bits", "bfloat16"])
def test_every_choice_returns_the_same_bits(
    ops: ModuleType, device: Device, name: str, packs: bool
) -> None:
    geometry = LAYERS[name]
    channels, out_channels, taps = geometry.channels, geometry.out_channels, geometry.kernel
    torch.manual_seed(0)
    x = _words(geometry.batch, geometry.height, geometry.width, channels // WORD_BITS)
    weight = _words(out_channels, *taps, channels // WORD_BITS)
    options = (geometry.stride, geometry.padding, geometry.dilation, geometry.groups, 0)
    if packs:
        threshold = torch.randint(-40, 40, (out_channels,), dtype=torch.int32, device="cuda")
        flip = torch.rand(out_channels, device="cuda") < 0.5
        run = partial(ops.binary_conv2d_threshold, x, weight, channels, threshold, flip, *options)
        wanted = reference.binary_conv2d_threshold(x, weight, threshold, flip, geometry, 0)
    else:
        scale, out_dtype = torch.randn(out_channels, device="cuda"), torch.bfloat16
        run = partial(ops.binary_conv2d_packed, x, weight, channels, scale, None, *options)
        run = partial(run, out_dtype=out_dtype)
        wanted = reference.binary_conv2d_packed(x, weight, scale, None, geometry, 0, out_dtype)
    call = ConvCall("bits" if packs else "bfloat16", 0, channels_last=True, alignment=16)
    listed = [choice for choice, _ in choices(geometry, call, device)]
    assert listed
    wrong = []
    for choice in listed:
        with ops.planned_by(choice):
            outputs = [run() for _ in range(_LAUNCHES)]
        wrong += [str(choice) for got in outputs if not torch.equal(got, wanted)]
    assert not wrong
