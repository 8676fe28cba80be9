"""The kernels' sources on the CPU, to the bit: what a machine without a GPU can say about them.

Not their speed, and not how warps of a real device interleave: for that are the tests on one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from cases import CASES, Case, can_pack
from compare import assert_same_bits
from configurations import (
    FORCE_WIDE,
    IN_PLACE,
    IN_PLACE_TILES,
    ROWS,
    ROWS_TILES,
    TILED,
    WGMMA_TILES,
    force_in_place_tile,
    force_rows_tile,
    force_tile,
    force_wgmma_tile,
    never_fuse,
    packed_operands,
)
from emulator import emulated_ops

from binop._cuda.conv_kernels import WARPGROUP_WIDE
from binop._cuda.launches import (
    CONV_SIZES,
    MMA_SIZES,
    WGMMA_ROWS_SIZES,
    WGMMA_SIZES,
    Device,
    Launch,
)
from binop._cuda.wgmma_block import Memory

_DEVICES = {
    "hopper": Device((9, 0), 132, 232448, 233472),
    "small hopper": Device((9, 0), 2, 232448, 233472),  # so that blocks walk over many tiles
    "turing": Device((7, 5), 40, 65536, 65536),  # popcount instructions
}
_reference = torch.ops.binop


def _varied(seed: int, case: Case) -> Case:
    """With another pad value and layout for each neighbour."""
    return replace(
        case,
        pad_value=(0, 1, 0, -1)[seed % 4],
        dtype=torch.bfloat16 if seed % 2 else torch.float16,
        channels_last=seed % 3 > 0,
    )


def _check_float(ops: ModuleType, case: Case) -> None:
    tensors = case.tensors()
    got = ops.binary_conv2d(*tensors, **case.options)
    wanted = _reference.binary_conv2d(*tensors, **case.options)
    assert_same_bits(got, wanted)
    assert got.stride() == wanted.stride()


def _check_threshold(ops: ModuleType, case: Case, seed: int) -> None:
    x, weight = packed_operands(case, seed)
    threshold = torch.randint(-40, 40, (case.o,), dtype=torch.int32)
    threshold[::7] = torch.iinfo(torch.int32).min
    threshold[3::7] = torch.iinfo(torch.int32).max
    arguments = (x, weight, case.c, threshold, torch.rand(case.o) < 0.5)
    got = ops.binary_conv2d_threshold(*arguments, **case.options)
    assert_same_bits(got, _reference.binary_conv2d_threshold(*arguments, **case.options))


def _every_other(first: int) -> list[tuple[int, Case]]:
    """Half of the cases: a second to compile and to run each adds up."""
    return list(enumerate(TILED))[first::2]


filters_of_mma = pytest.mark.parametrize("resident", [True, False], ids=["resident", "staged"])


@pytest.fixture
def mma_tile(monkeypatch: pytest.MonkeyPatch, tile: str, resident: bool) -> None:
    """The plan takes no other."""
    force_tile(monkeypatch, tile, resident=resident)


@pytest.mark.parametrize("tile", ["large", "tall", "shallow", "small"])
@filters_of_mma
@pytest.mark.usefixtures("mma_tile")
def test_conv_mma(hopper: ModuleType, launched: list[Launch], resident: bool) -> None:
    for seed, case in _every_other(int(resident)):
        case = _varied(seed, case)
        _check_float(hopper, case)
        if can_pack(case):
            _check_threshold(hopper, case, seed)
    assert {launch.kernel.source for launch in launched} > {"conv_mma.cu", "pack.cu"}


@pytest.mark.parametrize("tile", ["large", "tall", "shallow", "medium"])
@filters_of_mma
@pytest.mark.usefixtures("mma_tile")
def test_blocks_of_conv_mma_walk_over_tiles(build: Path, launched: list[Launch]) -> None:
    """Tiles of one stage and of several, on a device that is given several tiles a block."""
    device = _DEVICES["small hopper"]
    with emulated_ops(device, build, launched) as ops:
        for channels in (128, 384):
            case = Case("walk", channels, 72, h=19, w=23, n=4)
            _check_float(ops, case)
            _check_threshold(ops, case, channels)
    convolutions = [launch for launch in launched if launch.kernel.source == "conv_mma.cu"]
    assert len(convolutions) == 4
    for launch in convolutions:
        tiles, walkers = (_size(launch, name, MMA_SIZES) for name in ("pixel_tiles", "walkers"))
        assert tiles > 2 * walkers


@pytest.mark.parametrize("tile", ["large", "small"])
@filters_of_mma
@pytest.mark.usefixtures("mma_tile")
def test_conv_mma_of_many_border_classes(hopper: ModuleType, launched: list[Launch]) -> None:
    """More than the 15 whose filter bits one product counts, of words, half chunks and chunks."""
    for channels, kernel, pad_value in ((20, (7, 7), 1), (64, (5, 4), 0), (160, (5, 5), 1)):
        padding = (kernel[0] // 2, kernel[1] // 2)
        options = {"kernel": kernel, "padding": padding, "pad_value": pad_value}
        case = Case("classes", channels, 40, h=9, w=8, n=2, **options)
        _check_float(hopper, case)
        _check_threshold(hopper, case, channels)
    for launch in launched:
        if launch.kernel.source == "conv_mma.cu":
            rows, columns = (
                _size(launch, name, MMA_SIZES) for name in ("row_classes", "column_classes")
            )
            assert rows * columns > 15


@pytest.mark.parametrize("channels", [3640, 3641])
def test_conv_mma_of_sums_around_16_bits(
    hopper: ModuleType, launched: list[Launch], monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    """Every bit set and thresholds at the ends: what a half may hold, and more."""
    force_tile(monkeypatch, "medium", resident=False)
    case = Case("deep-bits", channels, 32, h=3, w=3, n=1, padding=(0, 0))
    taps = 9 * channels
    for fill in (-1, 0):
        x, weight = (torch.full_like(each, fill) for each in packed_operands(case))
        threshold = torch.tensor([-taps, -taps + 1, 0, taps - 1, taps, taps + 1], dtype=torch.int32)
        threshold = threshold.repeat(6)[: case.o]
        arguments = (x, weight, case.c, threshold, torch.rand(case.o) < 0.5)
        got = hopper.binary_conv2d_threshold(*arguments, **case.options)
        assert_same_bits(got, _reference.binary_conv2d_threshold(*arguments, **case.options))
    pairs = [dict(launch.kernel.macros)["PAIRS"] for launch in launched]
    assert pairs == [int(taps < 2**15)] * 2


@pytest.mark.parametrize("tile", list(WGMMA_TILES))
def test_conv_wgmma(
    hopper: ModuleType, launched: list[Launch], monkeypatch: pytest.MonkeyPatch, tile: str
) -> None:
    force_wgmma_tile(monkeypatch, tile)
    for seed, case in _every_other(list(WGMMA_TILES).index(tile) % 2):
        case = _varied(seed, case)
        _check_float(hopper, case)
        if can_pack(case):
            _check_threshold(hopper, case, seed)
    assert {launch.kernel.source for launch in launched} > {"conv_wgmma.cu", "pack.cu"}


@pytest.mark.parametrize("tile", list(WGMMA_TILES))
def test_conv_wgmma_over_many_tiles(
    build: Path, launched: list[Launch], monkeypatch: pytest.MonkeyPatch, tile: str
) -> None:
    force_wgmma_tile(monkeypatch, tile)
    with emulated_ops(_DEVICES["small hopper"], build, launched) as ops:
        for seed, case in _every_other(1 - list(WGMMA_TILES).index(tile) % 2):
            case = replace(case, n=7)
            if can_pack(case):
                _check_threshold(ops, case, seed)
            else:
                _check_float(ops, _varied(seed, case))
    tiles = [_size(launch, "pixel_tiles") for launch in launched if _is_wgmma(launch)]
    assert max(tiles) > 2 * _DEVICES["small hopper"].multiprocessors


def _is_wgmma(launch: Launch) -> bool:
    return launch.kernel.source == "conv_wgmma.cu"


def _size(launch: Launch, name: str, sizes: tuple[str, ...] = WGMMA_SIZES) -> int:
    return dict(zip(CONV_SIZES + sizes, launch.sizes, strict=True))[name]


@pytest.mark.parametrize("tile", list(IN_PLACE_TILES))
def test_conv_wgmma_in_place(
    hopper: ModuleType, launched: list[Launch], monkeypatch: pytest.MonkeyPatch, tile: str
) -> None:
    force_in_place_tile(monkeypatch, tile)
    for seed, case in _every_other(list(IN_PLACE_TILES).index(tile) % 2):
        case = replace(_varied(seed, case), stride=(1, 1), channels_last=True)
        _check_float(hopper, case)
        if can_pack(case):
            _check_threshold(hopper, case, seed)
    assert {launch.kernel.source for launch in launched} > {"conv_wgmma_in_place.cu", "pack.cu"}


@pytest.mark.parametrize("tile", list(IN_PLACE_TILES))
def test_conv_wgmma_in_place_over_many_tiles(
    build: Path, launched: list[Launch], monkeypatch: pytest.MonkeyPatch, tile: str
) -> None:
    force_in_place_tile(monkeypatch, tile)
    with emulated_ops(_DEVICES["small hopper"], build, launched) as ops:
        for seed, case in _every_other(1 - list(IN_PLACE_TILES).index(tile) % 2):
            case = replace(case, n=7, stride=(1, 1))
            if can_pack(case):
                _check_threshold(ops, case, seed)
            else:
                _check_float(ops, replace(_varied(seed, case), channels_last=True))
    tiles = [
        _size(launch, "pixel_tiles")
        for launch in launched
        if launch.kernel.source == "conv_wgmma_in_place.cu"
    ]
    assert max(tiles) > 2 * _DEVICES["small hopper"].multiprocessors


@pytest.mark.timeout(120, method="thread")  # once they waited forever, where no signal reaches
@pytest.mark.parametrize("stages", [2, 3, 5, 6, 7])
@pytest.mark.parametrize("tile", list(IN_PLACE_TILES))
def test_conv_wgmma_in_place_with_other_patches_in_flight_than_producers(
    build: Path, launched: list[Launch], monkeypatch: pytest.MonkeyPatch, tile: str, stages: int
) -> None:
    force_in_place_tile(monkeypatch, tile)
    monkeypatch.setattr(Memory, "stages", lambda memory, available: stages)
    with emulated_ops(replace(_DEVICES["hopper"], multiprocessors=1), build, launched) as ops:
        _check_threshold(ops, Case("slab", 64, 32, h=6, w=7, n=60), stages)
        _check_threshold(ops, Case("slabs", 640, 32, h=6, w=7, n=20), stages)
    in_place = [launch for launch in launched if launch.kernel.source == "conv_wgmma_in_place.cu"]
    assert {_size(launch, "stages") for launch in in_place} == {stages}
    assert _size(in_place[0], "pixel_tiles") > 3 * stages
    # Of more slabs the plan wants more patches.
    assert [_size(launch, "slabs") > 1 for launch in in_place] == [False, True][: 1 + (stages > 3)]


@pytest.mark.parametrize("case", IN_PLACE, ids=lambda case: case.name)
def test_conv_wgmma_in_place_of_its_own_cases(
    hopper: ModuleType, launched: list[Launch], monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    seed = IN_PLACE.index(case)
    force_in_place_tile(monkeypatch, list(IN_PLACE_TILES)[seed % len(IN_PLACE_TILES)])
    _check_float(hopper, replace(case, channels_last=True, dtype=torch.bfloat16))
    _check_threshold(hopper, case, seed)
    convolutions = {launch.kernel.source for launch in launched} - {"pack.cu"}
    assert convolutions == {"conv_wgmma_in_place.cu"}


@pytest.mark.parametrize("tile", list(ROWS_TILES))
def test_conv_wgmma_rows(
    hopper: ModuleType, launched: list[Launch], monkeypatch: pytest.MonkeyPatch, tile: str
) -> None:
    force_rows_tile(monkeypatch, tile)
    half = list(ROWS_TILES).index(tile) % 2
    for seed, case in list(enumerate(ROWS))[half::2]:
        case = _varied(seed // 2, case)
        _check_float(hopper, case)
        _check_threshold(hopper, case, seed)
    convolutions = {launch.kernel.source for launch in launched} - {"pack.cu"}
    assert convolutions == {"conv_wgmma_rows.cu"}


@pytest.mark.parametrize("tile", list(ROWS_TILES))
def test_conv_wgmma_rows_over_many_tiles(
    build: Path, launched: list[Launch], monkeypatch: pytest.MonkeyPatch, tile: str
) -> None:
    """Patches of the ring come round again, and pixels walk from image to image."""
    force_rows_tile(monkeypatch, tile)
    half = 1 - list(ROWS_TILES).index(tile) % 2
    with emulated_ops(_DEVICES["small hopper"], build, launched) as ops:
        for seed, case in list(enumerate(ROWS))[half::2]:
            pixels = ROWS_TILES[tile].pixels
            case = replace(_varied(seed // 2, case), n=20 * pixels // (case.h * case.w) + 1)
            if seed % 4 < 2:
                _check_float(ops, case)
            else:
                _check_threshold(ops, case, seed)
    rows = [launch for launch in launched if launch.kernel.source == "conv_wgmma_rows.cu"]
    names = ("pixel_tiles", "walkers", "stages")
    sizes = [[_size(launch, name, WGMMA_ROWS_SIZES) for name in names] for launch in rows]
    assert any(tiles > walkers * stages for tiles, walkers, stages in sizes)


@pytest.mark.parametrize("kernel", WARPGROUP_WIDE)
def test_a_bias(
    hopper: ModuleType, launched: list[Launch], monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    FORCE_WIDE[kernel](monkeypatch)
    case = Case("bias", 128, 104, h=9, w=8, n=2)
    for out_channels in (104, 99):  # stored 16 bytes at a time, and one by one
        case = replace(case, o=out_channels)
        x, weight = packed_operands(case, out_channels)
        scale, bias = torch.randn(case.o), torch.randn(case.o)
        every_other = torch.stack([bias, bias + 1], 1).flatten()[::2]
        for given in (None, bias, every_other):
            options = [*case.options.values(), torch.bfloat16]
            got = hopper.binary_conv2d_packed(x, weight, case.c, scale, given, *options)
            wanted = _reference.binary_conv2d_packed(x, weight, case.c, scale, given, *options)
            assert_same_bits(got, wanted)
    assert {launch.kernel.entry for launch in launched} == {kernel}
    assert [dict(launch.kernel.macros)["BIAS"] for launch in launched] == [0, 1, 1] * 2


@pytest.mark.parametrize("device", ["hopper", "turing"])
def test_the_plan_s_choice(
    build: Path, launched: list[Launch], monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    with emulated_ops(_DEVICES[device], build, launched) as ops:
        for seed, case in enumerate(CASES):
            if case.dtype is not torch.float64:
                _check_float(ops, replace(_varied(seed, case), pad_value=case.pad_value))
        # In the cases' small sizes most go in one launch; these as if they were larger.
        never_fuse(monkeypatch)
        ops._prepared.clear()
        for seed, case in enumerate(CASES[::3]):
            if case.dtype is not torch.float64:
                _check_float(ops, replace(_varied(seed, case), pad_value=case.pad_value))
    convolutions = {launch.kernel.source for launch in launched} - {"pack.cu", "conv_fused.cu"}
    wide = {f"{kernel}.cu" for kernel in WARPGROUP_WIDE} if device == "hopper" else set()
    assert convolutions == {"conv_simt.cu"} | wide


_LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "sliced": lambda x: torch.cat([x, x], 3)[..., : x.shape[3]],
}


@pytest.mark.parametrize("layout", list(_LAYOUTS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_pack_and_unpack(hopper: ModuleType, dtype: torch.dtype, layout: str) -> None:
    for channels in (3, 33, 64, 256):
        for image in ((1, 1), (7, 7), (6, 6), (8, 12)):
            case = Case("pack", channels, 1, *image, n=3, dtype=dtype)
            x = _LAYOUTS[layout](case.tensors()[0])
            scale_a = torch.tensor(0.8)
            signs, mask = hopper.pack_with_mask(x, scale_a, 1.0)
            for ours, theirs in zip(
                (hopper.pack(x), signs, mask),
                (_reference.pack(x), *_reference.pack_with_mask(x, scale_a, 1.0)),
                strict=True,
            ):
                assert_same_bits(ours, theirs)
            assert_same_bits(
                hopper.unpack(signs, channels, dtype), _reference.unpack(signs, channels, dtype)
            )
