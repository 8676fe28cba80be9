"""The plan of conv_wgmma, without a GPU: what it takes, and that its bounds hold."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_plan import CALL, layer, macros

from binop._cuda import launches, plan_wgmma, wgmma_block
from binop._cuda.conv_call import ConvCall
from binop._cuda.launches import Device, Launch
from binop._cuda.plan_conv import plan_conv
from binop._cuda.plan_wgmma import WgmmaTile, why_not_wgmma
from binop._cuda.wgmma_geometry import CHUNK_WORDS, MAX_STEPS, Axis, Depth, axes
from binop.geometry import Conv2dGeometry
from binop.packing import word_count

H200 = Device((9, 0), 132, 232448, 233472)
BITS = replace(CALL, out="bits")


def sizes(launch: Launch | None) -> dict[str, int]:
    assert launch is not None
    assert launch.kernel.source == "conv_wgmma.cu"
    names = launches.CONV_SIZES + launches.WGMMA_SIZES
    return dict(zip(names, launch.sizes, strict=True))


@pytest.mark.parametrize(
    ("geometry", "channels", "consumers"),
    [
        (layer(64, 56, 64), 64, 4),
        (layer(128, 28, 128), 128, 3),
        (layer(256, 14, 256), 128, 3),
        (layer(512, 7, 512), 128, 3),
        (layer(1024, 56, 1024, batch=64), 128, 3),
        (layer(256, 14, 256, batch=1), 32, 2),  # more blocks than wide tiles would give
    ],
)
def test_layers_get_the_tile_that_measured_best(
    geometry: Conv2dGeometry, channels: int, consumers: int
) -> None:
    launch = plan_wgmma.plan_wgmma(geometry, BITS, H200)
    assert (macros(launch)["TILE_N"], macros(launch)["CONSUMERS"]) == (channels, consumers)
    assert launch is not None
    assert launch.threads == 128 * (1 + consumers)
    size = sizes(launch)
    assert launch.blocks == size["walkers"] * size["group_channel_tiles"] * geometry.groups


@pytest.mark.parametrize(
    ("geometry", "call", "device", "why"),
    [
        (layer(64, 8, 64), CALL, Device((8, 9), 128, 101376, 102400), "warpgroup-wide"),
        (layer(64, 8, 64), CALL, Device((10, 0), 148, 232448, 233472), "warpgroup-wide"),
        (replace(layer(64, 8, 24), groups=2), BITS, H200, "share words"),
        (replace(layer(256, 30, 64), kernel=(7, 7), padding=(3, 3)), CALL, H200, "too many taps"),
        (layer(2**17, 8, 8, 1), CALL, H200, "depth"),
        (layer(64, 1, 64), CALL, H200, "smaller than the kernel"),
        (replace(layer(64, 5, 64), padding=(4, 4)), CALL, H200, "smaller than the kernel"),
        (layer(32, 3000, 8, 1), CALL, H200, "shared memory"),
        (layer(32, 2**15, 8, 1), CALL, H200, "32-bit"),
        (layer(4096, 14, 256), CALL, H200, None),
        (layer(8192, 14, 256), CALL, H200, "shared memory"),
    ],
)
def test_what_it_does_not_take(
    geometry: Conv2dGeometry, call: ConvCall, device: Device, why: str | None
) -> None:
    reason = why_not_wgmma(geometry, call, device)
    assert (reason is None) == (why is None)
    assert why is None or re.search(why, str(reason))
    launch = plan_conv(geometry, call, device)
    assert launch is not None  # another kernel takes it
    assert (launch.kernel.source == "conv_wgmma.cu") == (why is None)


def test_padding_with_ones_or_nothing_has_no_border() -> None:
    for pad_value, classes in ((-1, 1), (0, 9), (1, 1)):
        call = replace(CALL, pad_value=pad_value)
        size = sizes(plan_wgmma.plan_wgmma(layer(64, 8, 64), call, H200))
        rows = 1 + size["cut_first_rows"] + size["cut_last_rows"]
        assert rows * (1 + size["cut_first_columns"] + size["cut_last_columns"]) == classes
    for pad_value in (-1, 0, 1):
        call = replace(CALL, pad_value=pad_value)
        assert macros(plan_wgmma.plan_wgmma(layer(64, 8, 64), call, H200))["PAD_ONES"] == int(
            pad_value == 1
        )


def test_wide_stores_need_every_group_aligned() -> None:
    for groups, out_channels, stores in ((1, 24, "kWide"), (2, 24, "kSingle"), (3, 24, "kWide")):
        geometry = replace(layer(96 * groups, 8, out_channels), groups=groups)
        assert macros(plan_conv(geometry, CALL, H200))["STORES"] == stores
    contiguous = replace(CALL, channels_last=False)
    assert macros(plan_conv(layer(96, 8, 24), contiguous, H200))["STORES"] == "kPixels"


@given(
    size=st.integers(1, 40),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 4),
    dilation=st.integers(1, 3),
)
def test_an_axis_knows_its_cuts_and_its_padded_image(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    out = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    if out < 1:
        return
    axis = Axis(size, out, kernel, stride, padding, dilation)
    before, after, both, gone = 0, 0, False, False
    for index in range(out):
        taps = [index * stride - padding + tap * dilation for tap in range(kernel)]
        # The taps of an output lie in the padded image where the kernel looks for them.
        in_padded = [index * axis.step + tap * dilation for tap in range(kernel)]
        assert [place * axis.skip - padding for place in in_padded] == taps
        assert max(in_padded) < axis.padded
        first = sum(tap < 0 for tap in taps)
        last = sum(tap >= size for tap in taps)
        before, after = max(before, first), max(after, last)
        both |= first > 0 and last > 0
        gone |= max(first, last) == kernel
    assert axis.cuts() == (None if both or gone else (before, after))


@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    kernel=st.sampled_from([1, 2, 3]),
    stride=st.integers(1, 3),
    padding=st.integers(0, 1),
    pixels=st.sampled_from([64, 128, 192, 256]),
)
def test_no_tile_reads_past_its_patch(
    height: int, width: int, kernel: int, stride: int, padding: int, pixels: int
) -> None:
    geometry = Conv2dGeometry(
        64, 32, height, width, 32, (kernel, kernel), (stride,) * 2, (padding,) * 2, (1, 1), 1
    )
    if geometry.out_height < 1 or geometry.out_width < 1:
        return
    rows, columns = axes(geometry)
    bound = plan_wgmma.patch_pixels(geometry, pixels)
    plane = rows.out * columns.out
    for start in range(min(plane, 64)):
        first_row = start // columns.out * rows.step
        last = start + pixels - 1
        image, position = divmod(last, plane)
        last_row = image * rows.padded + position // columns.out * rows.step
        assert (last_row - first_row + rows.reach) * columns.padded <= bound


@given(
    channels=st.integers(1, 1100),
    kernel=st.sampled_from([(1, 1), (3, 3), (1, 3), (3, 1), (2, 2), (5, 5), (3, 7)]),
)
def test_the_depth_has_room_for_every_word_once(channels: int, kernel: tuple[int, int]) -> None:
    geometry = replace(layer(channels, 30, 64), kernel=kernel)
    depth = Depth.of(geometry)
    words = word_count(channels)
    rows, columns = kernel
    if depth.word_taps > 1:  # kernel rows in pieces of some taps, the last with the rest
        assert depth.word_taps * words <= CHUNK_WORDS
        pieces = -(-columns // depth.word_taps)
        assert depth.chunks == rows * pieces
        assert depth.planes == (2 if pieces > 1 and columns % depth.word_taps else 1)
    else:
        held = depth.slabs * depth.planes * CHUNK_WORDS
        assert held - depth.planes * CHUNK_WORDS < words <= held
        assert depth.chunks == rows * columns * depth.planes
    if rows * columns <= 2 * MAX_STEPS:
        assert depth.steps <= MAX_STEPS or depth.word_taps > 1


@given(value=st.integers(0, 2**15), divisor=st.integers(1, 2**15))
def test_division_by_multiplication_is_exact(value: int, divisor: int) -> None:
    inverse = wgmma_block.inverse(divisor)
    assert (value * inverse >> 32 if inverse else value) == value // divisor


def test_every_tile_fits_and_has_two_patches_in_flight() -> None:
    for channels in (3, 32, 64, 96, 100, 128, 320, 512, 1024, 2048):
        for size in (7, 14, 56, 224):
            for kernel in (1, 3):
                geometry = replace(layer(channels, size, 256), kernel=(kernel, kernel))
                for out in ("bits", "float32"):
                    call = replace(CALL, out=out)
                    if why_not_wgmma(geometry, call, H200):
                        continue
                    launch = plan_wgmma.plan_wgmma(geometry, call, H200)
                    assert launch is not None
                    assert launch.shared_bytes <= H200.block_shared_bytes
                    assert sizes(launch)["stages"] >= 2


def test_the_estimate_prefers_more_blocks_for_one_image() -> None:
    geometry = layer(512, 7, 512, batch=1)
    narrow, wide = (plan_wgmma.cycles(geometry, BITS, WgmmaTile(n, 1), H200) for n in (32, 256))
    assert narrow < wide
