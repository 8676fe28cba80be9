"""The plan of conv_wgmma_in_place, without a GPU: what it takes, where images lie in a patch, and
that its bounds hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
from configurations import IN_PLACE, IN_PLACE_TILES
from hypothesis import given
from hypothesis import strategies as st
from test_plan import AMPERE, BLACKWELL, CALL, layer, macros
from test_plan_wgmma import BITS, H200

from binop._cuda import launches, plan_wgmma_in_place
from binop._cuda.choice import Choice
from binop._cuda.conv_call import ConvCall, ResidualSum, out_pixels
from binop._cuda.launches import Device, Launch
from binop._cuda.plan_conv import choice_by_estimate, plan_conv
from binop._cuda.plan_wgmma_in_place import (
    InPlaceTile,
    PlaceLayout,
    tiles,
    why_not_wgmma_in_place,
)
from binop._cuda.plan_wgmma_in_place import plan_wgmma_in_place as plan
from binop._cuda.wgmma_geometry import CHUNK_WORDS, axes
from binop.geometry import Conv2dGeometry
from binop.packing import word_count

S6 = layer(1024, 56, 1024, batch=64)
_ONE_TAP = replace(layer(64, 8, 64), kernel=(1, 1), padding=(0, 0))
_ONE_ROW = replace(layer(64, 8, 64), kernel=(1, 3), padding=(0, 1))


def sizes(launch: Launch) -> dict[str, int]:
    assert launch.kernel.source == "conv_wgmma_in_place.cu"
    names = launches.CONV_SIZES + launches.WGMMA_SIZES
    return dict(zip(names, launch.sizes, strict=True))


@pytest.mark.parametrize("call", [BITS, CALL], ids=["bits", "bfloat16"])
def test_much_arithmetic_is_done_in_place(call: ConvCall) -> None:
    launch = plan_conv(S6, call, H200)
    assert launch is not None
    size = sizes(launch)
    blocks, consumers = (int(macros(launch)[name]) for name in ("BLOCKS", "CONSUMERS"))
    assert launch.threads == 128 * (1 + consumers)
    assert launch.blocks == size["walkers"] * size["group_channel_tiles"] <= 132
    assert size["pixel_tiles"] == -(-PlaceLayout.of(S6).count // (64 * blocks))
    assert size["stages"] >= 4  # a patch for each of the warps that fill them


@pytest.mark.parametrize("call", [BITS, CALL], ids=["bits", "bfloat16"])
@pytest.mark.parametrize(("channels", "size"), [(64, 56), (128, 28), (256, 14)])
def test_few_channels_are_left_to_rows(channels: int, size: int, call: ConvCall) -> None:
    geometry = layer(channels, size, channels)
    assert why_not_wgmma_in_place(geometry, call, H200) is None
    launch = plan_conv(geometry, call, H200)
    assert launch is not None
    assert launch.kernel.source == "conv_wgmma_rows.cu"


@pytest.mark.parametrize(
    ("geometry", "choice"),
    [
        (S6, Choice("conv_wgmma_in_place", (128, 2, 2))),
        (layer(512, 7, 512), Choice("conv_wgmma_rows", (128, 2))),
        (
            replace(layer(1024, 14, 1024), kernel=(1, 1), padding=(0, 0)),
            Choice("conv_wgmma", (256, 2)),
        ),
    ],
)
def test_floats_get_what_was_fastest_on_a_device(geometry: Conv2dGeometry, choice: Choice) -> None:
    assert choice_by_estimate(geometry, CALL, H200) == choice


@pytest.mark.parametrize(
    ("geometry", "call", "device", "why"),
    [
        (layer(64, 8, 64), CALL, AMPERE, "warpgroup-wide"),
        (layer(64, 8, 64), CALL, BLACKWELL, "warpgroup-wide"),
        (replace(layer(64, 8, 24), groups=2), BITS, H200, "share words"),
        (replace(layer(64, 8, 24), groups=2), CALL, H200, None),
        (replace(layer(64, 8, 64), stride=(2, 1)), CALL, H200, "strides"),
        (replace(layer(64, 8, 64), stride=(1, 2)), CALL, H200, "strides"),
        # A tap of its own reads no more of the image than what a stride leaves.
        (replace(_ONE_TAP, stride=(2, 3)), CALL, H200, None),
        (replace(_ONE_ROW, stride=(2, 1)), CALL, H200, None),
        (replace(_ONE_ROW, stride=(1, 2)), CALL, H200, "strides"),
        (
            replace(layer(64, 8, 64), width=1, padding=(1, 4), dilation=(1, 3)),
            replace(CALL, pad_value=-1),
            H200,
            "past the first of the next",
        ),
        (layer(64, 8, 64), replace(CALL, channels_last=False), H200, "contiguous output"),
        (layer(64, 8, 64), replace(CALL, bias=True), H200, None),
        (layer(64, 8, 30), CALL, H200, None),
        (
            layer(64, 8, 64),
            replace(CALL, residual=ResidualSum(False, False, False)),
            H200,
            "a residual sum",
        ),
        (replace(layer(256, 30, 64), kernel=(7, 7), padding=(3, 3)), CALL, H200, "too many taps"),
        (layer(64, 1, 64), CALL, H200, "smaller than the kernel"),
        (layer(64, 1, 64), replace(CALL, pad_value=-1), H200, None),
        (replace(layer(64, 5, 64), padding=(4, 4)), CALL, H200, "smaller than the kernel"),
        (layer(2**17, 8, 8, 1), CALL, H200, "depth"),
        (layer(4096, 14, 256), BITS, H200, "16 bits"),
        (layer(32, 8, 8, 2**24), CALL, H200, "^the image is too large$"),
        (layer(32, 8, 8, 2**23), CALL, H200, None),
        (layer(32, 2**15, 8, 1), CALL, H200, "32-bit"),
        (layer(32, 3000, 8, 1), CALL, H200, "shared memory"),
        (layer(3584, 14, 256), CALL, H200, None),
        (layer(4096, 14, 256), CALL, H200, "shared memory"),  # conv_wgmma takes it
    ],
)
def test_what_it_does_not_take(
    geometry: Conv2dGeometry, call: ConvCall, device: Device, why: str | None
) -> None:
    reason = why_not_wgmma_in_place(geometry, call, device)
    assert (reason is None) == (why is None), reason
    assert why is None or re.search(why, str(reason))
    launch = plan_conv(geometry, replace(call, residual=None), device)
    assert launch is not None  # another kernel takes it
    if why is None:
        sizes(plan(geometry, call, device))
    elif call.residual is None:
        assert launch.kernel.source != "conv_wgmma_in_place.cu"


def test_it_takes_the_cases_that_are_its_own() -> None:
    call = replace(CALL, pad_value=-1)
    for case in IN_PLACE:
        geometry = Conv2dGeometry(
            case.n, case.c, case.h, case.w, case.o, case.kernel, case.stride, case.padding,
            case.dilation, case.groups,
        )  # fmt: skip
        assert why_not_wgmma_in_place(geometry, call, H200) is None, case.name


def test_every_tile_is_one_that_a_plan_can_have() -> None:
    for geometry in (layer(64, 14, 100), layer(256, 14, 256), S6):
        for call in (BITS, CALL, replace(CALL, out="float32", bias=True)):
            listed = list(tiles(geometry, call, H200))
            assert len(set(listed)) == len(listed)
            for tile in listed:
                names = {"TILE_N": tile.channels, "CONSUMERS": tile.consumers}
                of_kernel = macros(plan(geometry, call, H200, tile))
                assert of_kernel.items() >= (names | {"BLOCKS": tile.blocks}).items()
                assert of_kernel["BIAS"] == int(call.bias)
    assert {tile.channels for tile in tiles(layer(64, 14, 40), CALL, H200)} == {32, 64}


def _patches(launch: Launch) -> int:
    """Where patches begin, as Layout of conv_wgmma_tile.cuh computes it."""
    size, macro = sizes(launch), macros(launch)
    channels, packed = int(macro["TILE_N"]), macro["OUT"] == "bits"
    taps = int(macro["KERNEL_ROWS"]) * int(macro["KERNEL_COLUMNS"])
    pieces = -(-int(macro["KERNEL_COLUMNS"]) // int(macro["WORD_TAPS"]))
    used = taps * int(macro["PLANES"])
    if int(macro["WORD_TAPS"]) > 1:
        used = int(macro["KERNEL_ROWS"]) * pieces
    steps = (used + 1) // 2
    alpha = 8 * 8 + 8 * 8 + 16  # behind the barriers
    table = alpha + 4 * channels * 2
    class_bytes = (2 if macro["NARROW"] else 4) * channels
    class_bytes += 128 if packed and channels % 64 == 0 else 0
    classes = (1 + size["cut_first_rows"] + size["cut_last_rows"]) * (
        1 + size["cut_first_columns"] + size["cut_last_columns"]
    )
    counted = table + class_bytes * classes
    filters = (counted + 4 * channels * taps + 127) // 128 * 128
    copies = filters + size["slabs"] * 2 * steps * (channels + 16) * 16
    return copies + size["copied_bytes"]


def _problems() -> Iterator[tuple[Conv2dGeometry, ConvCall]]:
    for channels, size, kernel in product(
        (3, 32, 64, 96, 100, 128, 320, 384, 512, 1024, 2048), (7, 14, 56, 224), (1, 3, 5)
    ):
        geometry = replace(
            layer(channels, size, 256), kernel=(kernel,) * 2, padding=(kernel // 2,) * 2
        )
        for out in ("bits", "float32"):
            call = replace(CALL, out=out)
            if why_not_wgmma_in_place(geometry, call, H200) is None:
                yield geometry, call


def test_every_launch_fits_and_is_laid_out_as_the_kernel_does() -> None:
    count = 0
    for geometry, call in _problems():
        for tile in (None, *tiles(geometry, call, H200)):
            launch = plan(geometry, call, H200, tile)
            size, macro = sizes(launch), macros(launch)
            assert launch.shared_bytes <= H200.block_shared_bytes
            assert 2 <= size["stages"] <= 8
            assert launch.shared_bytes == _patches(launch) + size["stages"] * size["stage_bytes"]
            places = 64 * int(macro["BLOCKS"])
            assert size["plane_bytes"] == 16 * (places + size["reach_places"])
            assert size["stage_bytes"] >= int(macro["PLANES"]) * size["plane_bytes"] + 8 * places
            assert size["stage_bytes"] % 128 == 0
            assert size["plane_bytes"] >> 4 < 2**14  # a product's operand has so many bits for it
            count += 1
    assert count > 1000


@given(
    channels=st.integers(1, 2100),
    kernel=st.sampled_from([(1, 1), (3, 3), (1, 3), (3, 1), (2, 2), (5, 5), (3, 7)]),
)
def test_every_depth_has_room_for_every_word_once(channels: int, kernel: tuple[int, int]) -> None:
    geometry = replace(layer(channels, 30, 64), kernel=kernel)
    words = word_count(channels)
    rows, columns = kernel
    depths = list(plan_wgmma_in_place._depths(geometry))
    assert depths
    for depth in depths:
        if depth.word_taps > 1:  # kernel rows in pieces of some taps
            assert depth.word_taps * words <= CHUNK_WORDS
            assert depth.planes == depth.slabs == 1
            assert depth.chunks == rows * -(-columns // depth.word_taps)
        else:
            held = depth.slabs * depth.planes * CHUNK_WORDS
            assert held - depth.planes * CHUNK_WORDS < words <= held
            assert depth.chunks == rows * columns * depth.planes
        if depth.planes > 1:
            assert depth.steps <= 18
    assert [depth.slabs for depth in depths] == sorted(depth.slabs for depth in depths)


# A pixel of an image, or None: padding.
Spot = tuple[int, int, int] | None


def _stack(geometry: Conv2dGeometry, layout: PlaceLayout) -> list[Spot]:
    """What lies at the places: the images one below the other, rows one after the other, each
    behind the padding before it. What follows the last row and the last column is padding that
    the next ones begin with."""
    rows, columns = axes(geometry)
    stack: list[Spot] = []
    for image in range(geometry.batch):
        for row in range(layout.rows):
            for column in range(layout.pitch):
                y = row * rows.skip - geometry.padding[0]
                x = column * columns.skip - geometry.padding[1]
                inside = 0 <= y < geometry.height and 0 <= x < geometry.width
                stack.append((image, y, x) if inside else None)
    return stack


def _small_geometries() -> Iterator[Conv2dGeometry]:
    kernels = ((1, 1), (2, 2), (3, 3), (5, 5), (1, 3), (3, 1), (2, 5))
    images = ((1, 1), (2, 7), (7, 2), (4, 5), (6, 6))
    paddings = ((0, 0), (1, 1), (2, 2), (3, 3), (0, 2), (3, 1))
    strides = ((1, 1), (2, 3))
    options = product(kernels, images, paddings, strides, ((1, 1), (2, 1), (1, 3)))
    for kernel, (height, width), padding, wanted_stride, dilation in options:
        stride = tuple(s if k == 1 else 1 for s, k in zip(wanted_stride, kernel, strict=True))
        geometry = Conv2dGeometry(
            2, 32, height, width, 32, kernel, (stride[0], stride[1]), padding, dilation, 1
        )
        if geometry.out_height > 0 and geometry.out_width > 0:
            yield geometry


def test_every_tap_finds_its_pixel_or_padding() -> None:
    checked = set()
    for geometry in _small_geometries():
        if geometry in checked:
            continue
        checked.add(geometry)
        _check_places(geometry)
    assert len(checked) > 300


def _check_places(geometry: Conv2dGeometry) -> None:
    layout = PlaceLayout.of(geometry)
    stack = _stack(geometry, layout)
    places = set()
    last = -1
    furthest = 0
    for image in range(geometry.batch):
        for out_row in range(geometry.out_height):
            for out_column in range(geometry.out_width):
                place = (image * layout.rows + out_row) * layout.pitch + out_column
                places.add(place)
                assert place > last  # in the output's order
                last = place
                for tap_row in range(geometry.kernel[0]):
                    for tap_column in range(geometry.kernel[1]):
                        down = geometry.dilation[0] * tap_row
                        across = geometry.dilation[1] * tap_column
                        y = out_row * geometry.stride[0] - geometry.padding[0] + down
                        x = out_column * geometry.stride[1] - geometry.padding[1] + across
                        inside = 0 <= y < geometry.height and 0 <= x < geometry.width
                        wanted = (image, y, x) if inside else None
                        offset = down * layout.pitch + across
                        furthest = max(furthest, offset)
                        read = place + offset
                        found = stack[read] if read < len(stack) else None
                        assert found == wanted, (geometry, image, out_row, out_column)
    assert len(places) == out_pixels(geometry)
    assert last + 1 == layout.count <= len(stack)
    assert furthest == layout.reach


@pytest.mark.parametrize("tile", IN_PLACE_TILES.values(), ids=IN_PLACE_TILES)
def test_a_patch_holds_what_its_tile_reads(tile: InPlaceTile) -> None:
    geometry = replace(layer(64, 9, 64, batch=3), dilation=(2, 1))
    layout = PlaceLayout.of(geometry)
    assert layout.entries(tile) == tile.pixels + 2 * 2 * layout.pitch + 2


def test_padding_between_rows_and_images_is_shared() -> None:
    assert PlaceLayout.of(layer(64, 56, 64, batch=2)) == PlaceLayout(
        57, 57, (57 + 55) * 57 + 56, 2 * 57 + 2
    )
    unpadded = replace(layer(64, 56, 64, batch=1), padding=(0, 0))
    assert PlaceLayout.of(unpadded) == PlaceLayout(56, 56, 53 * 56 + 54, 2 * 56 + 2)
    alone = replace(layer(64, 56, 64), kernel=(1, 1), stride=(2, 2), padding=(0, 0))
    assert PlaceLayout.of(alone).count == out_pixels(alone)


def test_more_planes_come_first_where_there_is_room_for_them() -> None:
    """512 channels are one slab; patches of large images leave no room for so many planes."""
    for size, planes, slabs in ((7, 4, 1), (400, 2, 2)):
        launch = plan(layer(512, size, 256, batch=1), BITS, H200, InPlaceTile(128, 3, 1))
        assert (macros(launch)["PLANES"], sizes(launch)["slabs"]) == (planes, slabs)


def test_the_estimate_prefers_more_blocks_for_one_image() -> None:
    geometry = layer(512, 7, 512, batch=1)
    narrow, wide = (
        plan_wgmma_in_place.cycles(geometry, BITS, InPlaceTile(channels, 1, 1), H200)
        for channels in (32, 128)
    )
    assert narrow < wide
