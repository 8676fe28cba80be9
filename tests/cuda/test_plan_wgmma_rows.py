"""The plan of conv_wgmma_rows, without a GPU: what it takes, and that its bounds hold."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from configurations import ROWS
from hypothesis import given
from hypothesis import strategies as st
from test_plan import AMPERE, CALL, layer, macros

from binop._cuda import launches
from binop._cuda.conv_call import ConvCall, ResidualSum
from binop._cuda.launches import Device, Launch, divide_up
from binop._cuda.plan_conv import plan_conv, plan_residual_sum, why_no_residual_sum
from binop._cuda.plan_wgmma_rows import RowsMemory, RowsTile, plan_wgmma_rows, why_not_wgmma_rows
from binop._cuda.wgmma_block import border_classes, border_cuts
from binop._cuda.wgmma_geometry import axes, patch_rows
from binop._cuda.wgmma_rows_layout import COPY_BYTES, RowLayout, _waits, is_row_a_span
from binop.geometry import Conv2dGeometry

H200 = Device((9, 0), 132, 232448, 233472)
BITS = replace(CALL, out="bits")


def sizes(launch: Launch) -> dict[str, int]:
    assert launch.kernel.source == "conv_wgmma_rows.cu"
    names = launches.CONV_SIZES + launches.WGMMA_ROWS_SIZES
    return dict(zip(names, launch.sizes, strict=True))


@pytest.mark.parametrize("geometry", [layer(64, 56, 64), layer(128, 28, 128)])
def test_few_channels_get_whole_rows(geometry: Conv2dGeometry) -> None:
    launch = plan_conv(geometry, BITS, H200)
    assert launch is not None
    size = sizes(launch)
    assert macros(launch)["WORDS"] == geometry.channels // 32
    assert launch.threads == 128 * (int(macros(launch)["CONSUMERS"]) + 1)
    assert launch.blocks == size["walkers"] * size["channel_tiles"] <= 132
    assert size["step_pixels"] == size["walkers"] * 64 * int(macros(launch)["CONSUMERS"])
    assert size["step_words"] == size["step_pixels"] * geometry.out_channels // 32
    images, spots = divmod(size["step_pixels"], geometry.out_height * geometry.out_width)
    assert size["step_images"] == images * size["image_bytes"]
    assert size["step_spots"] == 4 * spots < size["spots_bytes"]


_SUM = replace(CALL, out="bfloat16", residual=ResidualSum(False, True, False))


@pytest.mark.parametrize(
    ("geometry", "kernel"),
    [
        (layer(64, 56, 64), "conv_wgmma_rows.cu"),
        (layer(128, 28, 128), "conv_wgmma_rows.cu"),
        (layer(256, 14, 256), "conv_wgmma_rows.cu"),
        (layer(512, 7, 512), "conv_wgmma_rows.cu"),
        (layer(1024, 7, 1024), "conv_wgmma.cu"),
    ],
)
def test_residual_sums_of_few_channels(geometry: Conv2dGeometry, kernel: str) -> None:
    launch = plan_residual_sum(geometry, _SUM, H200)
    assert launch.kernel.source == kernel
    assert macros(launch)["RESIDUAL"] == macros(launch)["ACTIVATION"] == 1
    assert why_no_residual_sum(geometry, _SUM, H200) is None


def test_residual_sums_that_one_kernel_takes_or_none() -> None:
    geometry = layer(64, 56, 64)
    unaligned = replace(_SUM, residual=ResidualSum(False, True, False, aligned=False))
    assert why_not_wgmma_rows(geometry, _SUM, H200) is None
    assert "not aligned" in str(why_not_wgmma_rows(geometry, unaligned, H200))
    assert why_no_residual_sum(geometry, unaligned, H200) is None
    assert plan_residual_sum(geometry, unaligned, H200).kernel.source == "conv_wgmma.cu"
    assert "warpgroup-wide" in str(why_no_residual_sum(geometry, _SUM, AMPERE))


# Few outputs of many rows.
_POINTS = Conv2dGeometry(1, 32, 2048, 4, 64, (1, 1), (1024, 4), (0, 0), (1, 1), 1)


@pytest.mark.parametrize(
    ("geometry", "call", "device", "why"),
    [
        (layer(64, 8, 64), CALL, Device((8, 9), 128, 101376, 102400), "warpgroup-wide"),
        (replace(layer(64, 8, 24), groups=2), CALL, H200, "groups"),
        (layer(96, 8, 64), CALL, H200, "words"),
        (layer(1024, 8, 64), CALL, H200, "words"),
        (layer(64, 7, 64), CALL, H200, "aligned"),
        (layer(64, 8, 64), replace(CALL, alignment=8), H200, "aligned"),
        (replace(layer(256, 30, 64), kernel=(5, 5)), CALL, H200, "too many taps"),
        (replace(layer(64, 2, 64), padding=(4, 4)), CALL, H200, "smaller than the kernel"),
        (layer(32, 2000, 64), CALL, H200, "too large"),
        (replace(_POINTS, batch=2**20), CALL, H200, "too large"),
        (replace(_POINTS, batch=2**20 - 1), CALL, H200, None),
        (layer(64, 236, 64), CALL, H200, "shared memory"),
        (layer(128, 7, 64), CALL, H200, None),
        (layer(33, 8, 5), BITS, H200, None),
    ],
)
def test_what_it_does_not_take(
    geometry: Conv2dGeometry, call: ConvCall, device: Device, why: str | None
) -> None:
    reason = why_not_wgmma_rows(geometry, call, device)
    assert (reason is None) == (why is None), reason
    assert why is None or re.search(why, str(reason))
    launch = plan_conv(geometry, call, device)
    assert launch is not None  # another kernel takes it
    assert why is None or launch.kernel.source != "conv_wgmma_rows.cu"


def test_it_takes_the_cases_that_are_its_own() -> None:
    call = replace(CALL, pad_value=-1)
    for case in ROWS:
        geometry = Conv2dGeometry(
            case.n, case.c, case.h, case.w, case.o, case.kernel, case.stride, case.padding,
            case.dilation, 1,
        )  # fmt: skip
        assert why_not_wgmma_rows(geometry, call, H200) is None, case.name


geometries = st.builds(
    lambda words, height, width, kernel, stride, padding, dilation, batch: Conv2dGeometry(
        batch, 32 * words, height, width, 64, kernel, stride, padding, dilation, 1
    ),
    words=st.sampled_from([1, 2, 4, 8]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    batch=st.integers(1, 50),
)


@given(geometry=geometries)
def test_rows_hold_every_tap_and_copies_are_aligned(geometry: Conv2dGeometry) -> None:
    if geometry.out_height < 1 or geometry.out_width < 1:
        return
    pixel = geometry.channels // 32 * 4
    layout = RowLayout.of(geometry)
    assert layout.inside % COPY_BYTES == layout.pitch % COPY_BYTES == 0
    assert layout.inside - layout.first == geometry.padding[1] * pixel
    last = (geometry.out_width - 1) * geometry.stride[1]
    last += geometry.dilation[1] * (geometry.kernel[1] - 1)
    assert layout.first + (last + 1) * pixel <= layout.pitch
    assert layout.inside + geometry.width * pixel <= layout.pitch


def test_constants_of_residual_sums_have_room() -> None:
    geometry, tile, classes = layer(64, 56, 64), RowsTile(64, 2), 9
    plain = RowsMemory.of(geometry, replace(_SUM, residual=None), tile, classes)
    for chain, constants in ((_SUM.residual, 9), (ResidualSum(True, True, True), 10)):
        memory = RowsMemory.of(geometry, replace(_SUM, residual=chain), tile, classes)
        # What a border class adds is half a word without a sum.
        words = constants - 2 + classes / 2
        assert memory.fixed - plain.fixed == 4 * tile.channels * words


@given(geometry=geometries, consumers=st.integers(1, 6))
def test_every_tile_s_rows_have_room_in_a_stage(geometry: Conv2dGeometry, consumers: int) -> None:
    if geometry.out_height < 1 or geometry.out_width < 1:
        return
    cuts = border_cuts(geometry, 0)
    if cuts is None:
        return
    rows, columns = axes(geometry)
    tile = RowsTile(64, consumers)
    memory = RowsMemory.of(geometry, replace(CALL, out="bits"), tile, border_classes(cuts))
    bound = patch_rows(rows, columns, tile.pixels)
    assert bound * RowLayout.of(geometry).pitch + 8 * tile.pixels <= memory.stage
    for first in range(0, geometry.batch * rows.out * columns.out, tile.pixels):
        # As PatchRows of conv_wgmma_rows_patch.cuh counts them.
        above, below = first // columns.out, (first + tile.pixels - 1) // columns.out
        images = below // rows.out - above // rows.out
        count = images * rows.padded + (below - above - images * rows.out) * rows.step
        assert count + rows.reach <= bound


def test_rows_stand_so_that_taps_of_a_load_fall_into_different_banks() -> None:
    geometry = layer(32, 32, 64)
    pitch = RowLayout.of(geometry).pitch
    waits = [_waits(geometry, pitch) for pitch in range(pitch, pitch + 128, COPY_BYTES)]
    assert waits[0] == min(waits) < max(waits)
    assert waits[0] >= divide_up(9, 4)  # one a load


def test_rows_whose_loads_have_taps_of_one_row_stand_close() -> None:
    for channels, size in ((64, 56), (128, 28), (256, 14), (512, 7)):
        geometry = layer(channels, size, channels)
        layout = RowLayout.of(geometry)
        assert is_row_a_span(geometry) == (channels == 64)
        assert layout.pitch - (layout.inside + layout.row) == COPY_BYTES * divide_up(
            channels // 8, COPY_BYTES
        )


def test_every_launch_fits() -> None:
    for channels in (3, 32, 64, 128, 100, 256):
        for size in (8, 28, 56, 112):
            for kernel in (1, 3):
                geometry = replace(
                    layer(channels, size, 256), kernel=(kernel,) * 2, padding=(kernel // 2,) * 2
                )
                for out in ("bits", "float32"):
                    call = replace(CALL, out=out)
                    assert why_not_wgmma_rows(geometry, call, H200) is None
                    launch = plan_wgmma_rows(geometry, call, H200)
                    assert launch.shared_bytes <= H200.block_shared_bytes
                    assert sizes(launch)["stages"] >= 2
