"""Which float convolutions ``stem.cu`` takes, and how its blocks share them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_plan import AMPERE, TURING, macros
from test_plan_wgmma import H200

from binop._cuda import launches, plan_stem
from binop._cuda.launches import Launch
from binop._cuda.plan_pack import Image
from binop._cuda.plan_stem import StemCall, why_not_image, why_not_stem
from binop.geometry import Conv2dGeometry

IMAGENET = Conv2dGeometry(256, 3, 224, 224, 64, (7, 7), (2, 2), (3, 3), (1, 1), 1)
VGG = replace(IMAGENET, out_channels=128, kernel=(3, 3), stride=(1, 1), padding=(1, 1))
FLOATS = StemCall("bfloat16", bias=False, norm=True)
BITS = StemCall("bfloat16", bias=False, packed=True)


def image(*shape: int) -> Image:
    x = torch.empty(shape, dtype=torch.bfloat16, device="meta")
    return Image("bfloat16", shape, x.stride(), 16)


def plan(geometry: Conv2dGeometry, call: StemCall = FLOATS, device: Any = H200) -> Launch:
    x = image(geometry.batch, geometry.channels, geometry.height, geometry.width)
    weight = image(geometry.out_channels, geometry.channels, *geometry.kernel)
    launch = plan_stem.plan_stem(geometry, call, x, weight, device)
    assert launch is not None
    return launch


def sizes(launch: Launch) -> dict[str, int]:
    return dict(zip(launches.STEM_SIZES, launch.sizes, strict=True))


@pytest.mark.parametrize(
    ("change", "call", "device", "reason"),
    [
        ({}, FLOATS, TURING, "no matrix products of bfloat16"),
        ({}, replace(FLOATS, element="float32"), H200, "float32"),
        ({"channels": 5}, FLOATS, H200, "5 input channels"),
        ({"kernel": (9, 9)}, FLOATS, H200, "243 taps"),
        ({"dilation": (2, 1)}, FLOATS, H200, "dilation"),
        ({"groups": 3}, FLOATS, H200, "groups"),
        ({"out_channels": 60}, FLOATS, H200, "60 output channels"),
        ({"stride": (40, 40)}, FLOATS, H200, "do not fit shared memory"),
    ],
)
def test_what_it_does_not_take(
    change: dict[str, Any], call: StemCall, device: Any, reason: str
) -> None:
    assert reason in str(why_not_stem(replace(IMAGENET, **change), call, device))


@pytest.mark.parametrize(("geometry", "device"), [(IMAGENET, H200), (VGG, H200), (VGG, AMPERE)])
@pytest.mark.parametrize("call", [FLOATS, BITS])
def test_three_blocks_share_a_multiprocessor(
    geometry: Conv2dGeometry, call: StemCall, device: Any
) -> None:
    assert why_not_stem(geometry, call, device) is None
    launch = plan(geometry, call, device)
    assert launch.blocks == plan_stem.BLOCKS * device.multiprocessors
    assert plan_stem.BLOCKS * (launch.shared_bytes + 1024) <= device.multiprocessor_shared_bytes
    assert sizes(launch)["channel_groups"] == 1
    assert macros(launch)["PACKED"] == int(call.packed)


def test_few_tiles_are_few_blocks() -> None:
    assert plan(replace(IMAGENET, batch=1)).blocks == 7 * 7


def test_blocks_share_many_channels() -> None:
    launch = plan(replace(IMAGENET, out_channels=1024))
    shared = sizes(launch)
    assert shared["channel_groups"] > 1
    assert shared["channel_groups"] * shared["block_channel_tiles"] >= 1024 // 64
    assert launch.blocks == shared["walkers"] * shared["channel_groups"]
    assert launch.shared_bytes <= H200.block_shared_bytes


def test_offsets_within_an_image_fit_32_bits() -> None:
    x = image(2, 3, 224, 224)
    assert why_not_image(IMAGENET, x) is None
    assert why_not_image(IMAGENET, replace(x, strides=(2**40, *x.strides[1:]))) is None
    assert "too far" in str(why_not_image(IMAGENET, replace(x, strides=(1, 2**30, 224, 1))))
    assert "too many pixels" in str(why_not_image(replace(IMAGENET, batch=2**26), x))
