"""The plans, without a GPU: which kernel, with which tile, and that the arguments fit."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from binop._cuda import launches, plan_conv, sources, variants
from binop._cuda.launches import Device, Launch
from binop._cuda.plan_conv import ConvCall
from binop._cuda.plan_conv import plan_conv as plan
from binop._cuda.plan_pack import Image, plan_pack, plan_unpack
from binop.geometry import Conv2dGeometry

H200 = Device((9, 0), 132, 232448, 233472)
TURING = Device((7, 5), 40, 65536, 65536)
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
    return dict(zip(launches.CONV_SIZES, launch.sizes, strict=True))


def image(shape: tuple[int, ...], layout: str = "contiguous", element: str = "bfloat16") -> Image:
    _, c, h, w = shape
    strides = (h * w * c, 1, w * c, c) if layout == "channels_last" else (c * h * w, h * w, w, 1)
    return Image(element, shape, strides, 16)


@pytest.mark.parametrize(
    ("channels", "size", "out_channels"), [(128, 28, 128), (256, 14, 256), (512, 7, 512)]
)
def test_large_layers_get_the_large_tile_and_16_byte_copies(
    channels: int, size: int, out_channels: int
) -> None:
    launch = plan(layer(channels, size, out_channels), CALL, H200)
    assert launch is not None
    assert launch.kernel.source == "conv_mma.cu"
    assert macros(launch)["TILE_M"] == macros(launch)["TILE_N"] == 128
    assert macros(launch)["COPY_WORDS"] == 4
    assert launch.blocks % sizes(launch)["channel_tiles"] == 0
    assert launch.blocks <= 2 * H200.multiprocessors
    assert launch.shared_bytes <= H200.block_shared_bytes


def test_few_channels_get_the_narrow_tile() -> None:
    assert macros(plan(layer(64, 56, 64), CALL, H200))["TILE_N"] == 64


def test_small_problems_get_small_tiles() -> None:
    assert macros(plan(layer(512, 7, 512, batch=1), CALL, H200))["TILE_M"] == 32


@pytest.mark.parametrize(
    ("geometry", "call", "device", "why"),
    [
        (layer(64, 8, 64), CALL, TURING, "no 1-bit matrix instructions"),
        (layer(64, 8, 4), CALL, H200, "fewer output channels"),
        (replace(layer(64, 8, 24), groups=2), replace(CALL, out="bits"), H200, "share words"),
        (replace(layer(64, 40, 64), kernel=(15, 17), padding=(7, 8)), CALL, H200, "too large"),
        (replace(layer(1, 8, 8), padding=(2**30, 1), stride=(2**29, 1)), CALL, H200, "2\\*\\*30"),
        (
            replace(layer(4096, 1, 8), dilation=(1, 2**22), padding=(1, 2**22)),
            CALL,
            H200,
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
    ("channels", "alignment", "copy_words", "masked"),
    [
        (128, 16, 4, 0),
        (128, 8, 2, 0),
        (128, 4, 1, 0),
        (64, 16, 2, 0),
        (96, 16, 1, 0),
        (100, 16, 1, 1),
        (3, 16, 1, 1),
    ],
)
def test_copies_fit_the_words_and_the_address(
    channels: int, alignment: int, copy_words: int, masked: int
) -> None:
    launch = plan(layer(channels, 28, 128), replace(CALL, alignment=alignment), H200)
    assert macros(launch)["COPY_WORDS"] == copy_words
    assert macros(launch)["MASKED"] == masked


@pytest.mark.parametrize("channels", [3, 32, 64, 96, 128, 256, 512, 1000, 1024])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 3), (3, 1), (5, 4), (7, 7)])
def test_the_walk_through_the_depth_meets_every_word_once(
    channels: int, kernel: tuple[int, int]
) -> None:
    dilation = (2, 3)
    geometry = replace(layer(channels, 40, 64), kernel=kernel, dilation=dilation)
    walk = sizes(plan(geometry, CALL, H200))
    words = walk["group_words"]
    wanted = [
        (i * dilation[0], j * dilation[1], word)
        for i in range(kernel[0])
        for j in range(kernel[1])
        for word in range(words)
    ]
    met: list[tuple[int, int, int]] = []
    for start in range(plan_conv.STAGE_WORDS):
        tap, word = divmod(start, words)
        row, column = (tap // kernel[1] * dilation[0], tap % kernel[1] * dilation[1])
        while row < walk["reach_rows"]:
            met.append((row, column, word))
            word += walk["walk_words"]
            column += walk["walk_columns"]
            row += walk["walk_rows"]
            if word >= words:
                word -= words
                column += dilation[1]
            if column >= walk["reach_columns"]:
                column -= walk["reach_columns"]
                row += dilation[0]
    assert sorted(met) == sorted(wanted)


def test_padding_that_counts_as_clear_bits_has_no_border() -> None:
    for pad_value, has_border in ((-1, 0), (0, 1), (1, 1)):
        launch = plan(layer(64, 8, 64), replace(CALL, pad_value=pad_value), H200)
        assert sizes(launch)["has_border"] == has_border
    unpadded = replace(layer(64, 8, 64), padding=(0, 0))
    assert sizes(plan(unpadded, CALL, H200))["has_border"] == 0


def test_every_shared_memory_request_fits_its_device() -> None:
    for shared in (65536, 101376, 166912, 232448):
        device = Device((8, 0), 100, shared, shared + 1024)
        for kernel in range(1, 16):
            for out in ("bits", "float32"):
                geometry = replace(layer(64, 30, 256), kernel=(kernel, kernel), padding=(7, 7))
                launch = plan(geometry, replace(CALL, out=out), device)
                assert launch is not None
                assert launch.shared_bytes <= shared


def test_empty_batches_launch_nothing() -> None:
    assert plan(layer(64, 8, 64, batch=0), CALL, H200) is None
    assert plan_pack(image((0, 64, 8, 8))) is None
    assert plan_unpack(0, 64, "int8") is None


@pytest.mark.parametrize(
    ("packed", "source"),
    [
        (image((2, 64, 8, 8), "channels_last"), "pack_flat.cu"),
        (image((64, 64, 1, 1)), "pack_flat.cu"),  # both layouts at once
        (image((2, 48, 8, 8), "channels_last"), "pack_strided.cu"),
        (replace(image((2, 64, 8, 8), "channels_last"), alignment=8), "pack_strided.cu"),
        (image((2, 64, 8, 8)), "pack_planes.cu"),
        (replace(image((2, 64, 8, 8)), strides=(8192, 64, 1, 8)), "pack_strided.cu"),
        (replace(image((2, 64, 8, 8)), strides=(0, 0, 0, 0)), "pack_strided.cu"),
    ],
)
def test_pack_follows_the_layout(packed: Image, source: str) -> None:
    launch = plan_pack(packed)
    assert launch is not None
    assert launch.kernel.source == source


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
            for out_channels in (4, 64, 128):
                for batch in (1, 256):
                    for device in (H200, TURING):
                        geometry = layer(channels, 14, out_channels, batch)
                        launch = plan(geometry, replace(CALL, out=out), device)
                        assert launch is not None
                        assert launch.kernel in known


def test_tiles_are_what_the_kernel_asserts() -> None:
    for tile in plan_conv.TILES:
        assert tile.threads >= max(tile.pixels, tile.channels)
        assert tile.threads <= 512
