"""Which float convolutions ``stem.cu`` takes, and how its blocks share them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_plan import AMPERE, BLACKWELL, TURING, macros
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


@pytest.mark.parametrize("geometry", [IMAGENET, VGG])
@pytest.mark.parametrize("call", [FLOATS, BITS])
def test_four_blocks_share_a_multiprocessor(geometry: Conv2dGeometry, call: StemCall) -> None:
    assert why_not_stem(geometry, call, H200) is None
    launch = plan(geometry, call)
    assert launch.blocks == 4 * H200.multiprocessors
    assert 4 * (launch.shared_bytes + 1024) <= H200.multiprocessor_shared_bytes
    assert sizes(launch)["channel_groups"] == 1
    assert macros(launch)["PACKED"] == int(call.packed)


@pytest.mark.parametrize(
    ("geometry", "blocks"), [(VGG, 4), (IMAGENET, 2)], ids=["small filters", "large ones"]
)
def test_as_many_as_shared_memory_has_room_for(geometry: Conv2dGeometry, blocks: int) -> None:
    launch = plan(geometry, device=AMPERE)
    assert launch.blocks == blocks * AMPERE.multiprocessors
    room = AMPERE.multiprocessor_shared_bytes - blocks * (launch.shared_bytes + 1024)
    assert room >= 0
    assert blocks == 4 or room < launch.shared_bytes + 1024


def test_products_are_those_of_the_device() -> None:
    assert macros(plan(IMAGENET))["WIDE"] == 1
    for device in (AMPERE, BLACKWELL):
        assert macros(plan(IMAGENET, device=device))["WIDE"] == 0


def test_lanes_step_through_the_output_by_its_own_strides() -> None:
    floats, bits = sizes(plan(VGG)), sizes(plan(replace(VGG, out_channels=72), BITS))
    assert (floats["out_pixel"], floats["out_row"]) == (128, 224 * 128)
    assert (bits["out_pixel"], bits["out_row"]) == (3, 224 * 3)


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
