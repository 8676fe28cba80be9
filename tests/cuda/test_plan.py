"""The plans, without a GPU: which kernel, with which tile, and that the arguments fit."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from binop._cuda import launches, mma_tile, plan_peak, sources, variants
from binop._cuda.conv_call import ConvCall
from binop._cuda.launches import Device, Launch
from binop._cuda.plan_conv import plan_conv as plan
from binop._cuda.plan_pack import Image, plan_pack, plan_unpack
from binop.geometry import Conv2dGeometry

# As large as an H200, but without its own matrix products.
AMPERE_OF_H200_SIZE = Device((8, 0), 132, 232448, 233472)
AMPERE = Device((8, 6), 84, 101376, 102400)
TURING = Device((7, 5), 40, 65536, 65536)
BLACKWELL = Device((10, 0), 148, 232448, 233472)
CALL = ConvCall(out="bfloat16", pad_value=0, channels_last=True, alignment=16)


def layer(channels: int, size: int, out_channels: int, batch: int = 256) -> Conv2dGeometry:
    return Conv2dGeometry(
        batch, channels, size, size, out_channels, (3, 3), (1, 1), (1, 1), (1, 1), 1
    )


def macros(launch: Launch | None) -> dict[str, str | int]:
    assert launch is not None
    return dict(launch.kernel.macros)


def sizes(launch: Launch | None) -> dict[str, int]:
    assert launch is not None
    return dict(zip(launches.CONV_SIZES + launches.MMA_SIZES, launch.sizes, strict=True))


def tile(launch: Launch | None) -> mma_tile.Tile:
    assert launch is not None
    assert launch.kernel.source == "conv_mma.cu"
    names = ("WARP_M", "WARP_N", "WARPS_M", "WARPS_N", "WARPS_K", "PRODUCERS")
    return mma_tile.Tile(*(int(macros(launch)[name]) for name in names))


def image(shape: tuple[int, ...], layout: str = "contiguous", element: str = "bfloat16") -> Image:
    _, c, h, w = shape
    strides = (h * w * c, 1, w * c, c) if layout == "channels_last" else (c * h * w, h * w, w, 1)
    return Image(element, shape, strides, 16)


@pytest.mark.parametrize(
    ("channels", "size", "out_channels"), [(128, 28, 128), (256, 14, 256), (512, 7, 512)]
)
def test_large_layers_get_warps_of_64_channels_and_keep_their_filters(
    channels: int, size: int, out_channels: int
) -> None:
    launch = plan(layer(channels, size, out_channels), CALL, AMPERE_OF_H200_SIZE)
    assert tile(launch).warp_pixels >= 32
    assert tile(launch).warp_channels == 64
    assert tile(launch).warps_deep == 1
    assert sizes(launch)["resident"] == 1
    assert sizes(launch)["copy_words"] == 4
    assert launch is not None
    assert launch.blocks % sizes(launch)["channel_tiles"] == 0
    at_once = tile(launch).blocks_per_multiprocessor * AMPERE_OF_H200_SIZE.multiprocessors
    assert launch.blocks <= at_once
    assert launch.shared_bytes <= AMPERE_OF_H200_SIZE.block_shared_bytes


def test_few_channels_get_a_narrow_tile() -> None:
    assert tile(plan(layer(64, 56, 64), CALL, AMPERE_OF_H200_SIZE)).channels == 64


def test_one_image_gets_many_blocks_whose_warps_split_the_depth() -> None:
    launch = plan(layer(512, 7, 512, batch=1), CALL, AMPERE_OF_H200_SIZE)
    assert tile(launch) == mma_tile.SMALL
    assert sizes(launch)["slots"] == sizes(launch)["stages"]  # all of the depth on its way at once


def test_emulated_products_get_tiles_that_fit_the_registers() -> None:
    for batch in (1, 256):
        assert tile(plan(layer(256, 14, 256, batch), CALL, BLACKWELL)) in mma_tile.EMULATED_TILES


@pytest.mark.parametrize(
    ("geometry", "call", "device", "why"),
    [
        (layer(64, 8, 64), CALL, TURING, "no 1-bit matrix instructions"),
        (layer(64, 8, 4), CALL, AMPERE_OF_H200_SIZE, "fewer output channels"),
        (
            replace(layer(64, 8, 24), groups=2),
            replace(CALL, out="bits"),
            AMPERE_OF_H200_SIZE,
            "share words",
        ),
        (
            replace(layer(64, 90, 64), kernel=(33, 33), padding=(7, 8)),
            CALL,
            AMPERE_OF_H200_SIZE,
            "too many taps",
        ),
        (layer(64, 1, 64), CALL, AMPERE_OF_H200_SIZE, "both ends"),
        (replace(layer(2**18, 8, 8, 1), kernel=(3, 3)), CALL, AMPERE_OF_H200_SIZE, "2\\*\\*21"),
        (replace(layer(32, 2**15, 8, 1)), CALL, AMPERE_OF_H200_SIZE, "2\\*\\*30"),
        (
            replace(layer(64, 90, 64), kernel=(31, 31), padding=(15, 15)),
            CALL,
            AMPERE,
            "shared memory",
        ),
        (
            replace(layer(1, 8, 8), padding=(2**30, 1), stride=(2**29, 1)),
            CALL,
            AMPERE_OF_H200_SIZE,
            "2\\*\\*30",
        ),
        (
            replace(layer(4096, 1, 8), dilation=(1, 2**22), padding=(1, 2**22)),
            CALL,
            AMPERE_OF_H200_SIZE,
            "2\\*\\*30",
        ),
    ],
)
def test_what_the_tensor_cores_do_not_take(
    geometry: Conv2dGeometry, call: ConvCall, device: Device, why: str
) -> None:
    launch = plan(geometry, call, device)
    assert launch is not None
    assert launch.kernel.source == "conv_simt.cu"
    assert re.search(why, launch.reason)


@pytest.mark.parametrize(
    ("channels", "alignment", "copy_words"),
    [(128, 16, 4), (128, 8, 2), (128, 4, 1), (64, 16, 2), (96, 16, 1), (100, 16, 4), (3, 16, 1)],
)
def test_copies_fit_the_words_and_the_address(
    channels: int, alignment: int, copy_words: int
) -> None:
    launch = plan(layer(channels, 28, 128), replace(CALL, alignment=alignment), AMPERE_OF_H200_SIZE)
    assert sizes(launch)["copy_words"] == copy_words


def test_padding_that_counts_as_clear_bits_has_no_border() -> None:
    for pad_value, classes in ((-1, 1), (0, 9), (1, 9)):
        size = sizes(
            plan(layer(64, 8, 64), replace(CALL, pad_value=pad_value), AMPERE_OF_H200_SIZE)
        )
        assert size["row_classes"] * size["column_classes"] == classes


def test_every_shared_memory_request_fits_its_device() -> None:
    for shared in (65536, 101376, 166912, 232448):
        device = Device((8, 0), 100, shared, shared + 1024)
        for kernel in range(1, 16):
            for out in ("bits", "float32"):
                geometry = replace(layer(64, 30, 256), kernel=(kernel, kernel), padding=(7, 7))
                for channels_last in (False, True):
                    call = replace(CALL, out=out, channels_last=channels_last)
                    launch = plan(geometry, call, device)
                    assert launch is not None
                    assert launch.shared_bytes <= shared


def test_empty_batches_launch_nothing() -> None:
    assert plan(layer(64, 8, 64, batch=0), CALL, AMPERE_OF_H200_SIZE) is None
    assert plan_pack(image((0, 64, 8, 8))) is None
    assert plan_unpack(0, 64, "int8") is None


@pytest.mark.parametrize(
    ("packed", "layout"),
    [
        (image((2, 64, 8, 8), "channels_last"), "flat"),
        (image((64, 64, 1, 1)), "flat"),  # both layouts at once
        (image((2, 48, 8, 8), "channels_last"), "strided"),
        (replace(image((2, 64, 8, 8), "channels_last"), alignment=8), "strided"),
        (image((2, 64, 8, 8)), "planes"),
        (replace(image((2, 64, 8, 8)), strides=(8192, 64, 1, 8)), "strided"),
        (replace(image((2, 64, 8, 8)), strides=(0, 0, 0, 0)), "strided"),
    ],
)
def test_pack_follows_the_layout(packed: Image, layout: str) -> None:
    assert macros(plan_pack(packed))["LAYOUT"] == layout


def test_filters_are_packed_by_blocks_of_their_own() -> None:
    x, filters = image((2, 64, 8, 8), "channels_last"), image((48, 100, 3, 3), element="float32")
    alone, both = plan_pack(x), plan_pack(x, filters=filters)
    assert alone is not None
    assert both is not None
    assert macros(both) == macros(alone) | {"FILTERS": 1}
    assert both.blocks == alone.blocks + 48 * 4 // 8  # a warp for every 32 channels of a filter


@pytest.mark.parametrize(
    ("packed", "vector"),
    [
        (image((2, 64, 56, 56)), 8),
        (image((2, 64, 14, 14)), 4),
        (image((2, 64, 7, 7)), 1),
        (image((2, 64, 56, 56), element="float32"), 4),
        (image((2, 64, 56, 56), element="int8"), 16),
        (replace(image((2, 64, 56, 56)), alignment=4), 2),
        (replace(image((2, 64, 8, 8)), strides=(8195, 64, 8, 1)), 1),
    ],
)
def test_pack_planes_takes_the_longest_vector(packed: Image, vector: int) -> None:
    assert macros(plan_pack(packed))["VECTOR"] == vector


@pytest.mark.parametrize(
    ("header", "struct", "pointers", "numbers"),
    [
        ("pack.cuh", "PackArguments", launches.PACK_POINTERS, launches.PACK_SIZES),
        ("unpack.cu", "UnpackArguments", launches.UNPACK_POINTERS, launches.UNPACK_SIZES),
        ("conv.cuh", "ConvArguments", launches.CONV_POINTERS, launches.CONV_SIZES),
        ("conv_fused.cu", "FusedArguments : ConvArguments", (), launches.FUSED_SIZES),
        ("conv_mma_tile.cuh", "MmaArguments : ConvArguments", (), launches.MMA_SIZES),
        ("conv_wgmma_tile.cuh", "WgmmaArguments : ConvArguments", (), launches.WGMMA_SIZES),
        (
            "conv_wgmma_rows_tile.cuh",
            "WgmmaArguments : ConvArguments",
            (),
            launches.WGMMA_ROWS_SIZES,
        ),
        ("peak.cuh", "PeakArguments", plan_peak.PEAK_POINTERS, plan_peak.PEAK_SIZES),
        ("conv_wgmma_residual.cuh", "ResidualPointers", launches.RESIDUAL_POINTERS, ()),
        ("stem_tile.cuh", "StemArguments", launches.STEM_POINTERS, launches.STEM_SIZES),
    ],
)
def test_arguments_have_the_fields_of_the_kernels(
    header: str, struct: str, pointers: tuple[str, ...], numbers: tuple[str, ...]
) -> None:
    body = re.search(rf"struct {struct} {{(.*?)\n}};", sources.text(header).decode(), re.DOTALL)
    assert body is not None
    fields = re.findall(r"^\s*(.*?)(\w+);", body[1], re.MULTILINE)
    assert [name for kind, name in fields if "*" in kind] == list(pointers)
    assert [name for kind, name in fields if "*" not in kind] == list(numbers)
    assert {kind.strip() for kind, _ in fields if "*" not in kind} <= {"i64", "double"}


def test_every_planned_kernel_is_a_listed_variant() -> None:
    known = set(variants.kernels())
    for out in ("float16", "bfloat16", "float32", "bits"):
        for channels in (3, 32, 64, 100, 128):
            for out_channels in (4, 30, 64, 128):
                for batch in (1, 256):
                    for device in (AMPERE_OF_H200_SIZE, TURING, AMPERE, BLACKWELL):
                        geometry = layer(channels, 14, out_channels, batch)
                        launch = plan(geometry, replace(CALL, out=out), device)
                        assert launch is not None
                        assert launch.kernel in known
                        arch = f"sm_{device.capability[0]}{device.capability[1]}"
                        assert variants.runs_on(launch.kernel, arch)


def test_tiles_are_what_the_kernel_can_do() -> None:
    for each in mma_tile.TILES:
        assert each.warp_pixels % 16 == 0
        assert each.warp_channels in (32, 64)  # a lane's bits are stored as 8 or 16
        assert each.threads <= (384 if each.producers else 256)
        # Those that copy count by masks.
        assert each.copiers & (each.copiers - 1) == 0
        assert each.producers == 0 or (each.warps == 8 and each.warps_deep == 1)
