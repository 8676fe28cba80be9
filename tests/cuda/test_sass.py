"""Machine code, without a GPU: every source compiles for every architecture, the matrix
instruction is there, and the loops stay out of local memory."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from machine_code import MachineCode, read_early
from some_kernels import (
    FULL_SUM,
    IMAGENET_STEM,
    PLAIN_SUM,
    VGG_STEM,
    in_place,
    rows,
    stem,
    wgmma,
)

from binop._cuda import jit, mma_tile, variants
from binop._cuda.conv_kernels import WARPGROUP_WIDE
from binop._cuda.launches import Kernel
from binop._cuda.mma_tile import mma_kernel
from binop._cuda.plan_pack import pack_kernel
from binop._cuda.plan_peak import MMA_PEAK, WGMMA_PEAK
from binop._cuda.plan_stem import NARROW, STEM_TILES, WIDE, StemCall
from binop._cuda.plan_wgmma import WgmmaTile
from binop._cuda.plan_wgmma_in_place import InPlaceTile
from binop._cuda.plan_wgmma_rows import RowsTile

_BIT_PRODUCT = "BMMA.168256.AND.POPC"


_CHOSEN = [
    Kernel("unpack.cu", (("ELEMENT", "int8"),)),
    Kernel("unpack.cu", (("ELEMENT", "bfloat16"),)),
    pack_kernel("bfloat16", "flat", None, mask=True),
    pack_kernel("float32", "flat", None, filters=True),
    pack_kernel("int8", "flat", None),
    pack_kernel("float16", "strided", None, mask=True),
    pack_kernel("bfloat16", "planes", 8, filters=True),
    pack_kernel("float16", "planes", 1, mask=True),
    Kernel("conv_simt.cu", (("OUT", "bits"),)),
    Kernel("conv_simt.cu", (("OUT", "bfloat16"),)),
    MMA_PEAK,
    mma_kernel("bits", mma_tile.LARGE, pairs=True),
    mma_kernel("bfloat16", mma_tile.LARGE_OF_FLOATS),
    mma_kernel("float16", mma_tile.LARGE_OF_FLOATS, rows=False),
    mma_kernel("float32", mma_tile.TALL_OF_FLOATS),
    mma_kernel("bits", mma_tile.LARGE_OF_FLOATS),
    mma_kernel("bits", mma_tile.SHALLOW, pairs=True),
    mma_kernel("float32", mma_tile.SHALLOW),
    mma_kernel("bits", mma_tile.MEDIUM),
    mma_kernel("float16", mma_tile.SMALL, rows=False),
    wgmma("bits", 64, 3, WgmmaTile(64, 4)),
    wgmma("bits", 1024, 3, WgmmaTile(128, 3)),
    wgmma("bfloat16", 256, 3, WgmmaTile(224, 2)),
    wgmma("float32", 100, 3, WgmmaTile(96, 3)),
    wgmma("float16", 256, 1, WgmmaTile(160, 2), last=False),
    wgmma("float16", 32, 3, WgmmaTile(32, 1)),
    wgmma("bfloat16", 64, 3, WgmmaTile(64, 3), bias=True),
    wgmma("float32", 100, 3, WgmmaTile(128, 2), bias=True),
    in_place("bits", 1024, 3, InPlaceTile(128, 3, 1)),
    in_place("bits", 1024, 3, InPlaceTile(128, 2, 2)),
    in_place("bits", 64, 3, InPlaceTile(64, 4, 1)),
    in_place("bits", 250, 1, InPlaceTile(32, 1, 2)),
    in_place("bits", 512, 3, InPlaceTile(64, 2, 2)),
    in_place("bits", 256, 3, InPlaceTile(128, 2, 2)),
    in_place("bfloat16", 256, 3, InPlaceTile(64, 2, 2)),
    in_place("float32", 128, 3, InPlaceTile(64, 1, 2)),
    in_place("bfloat16", 1024, 3, InPlaceTile(128, 2, 2)),
    in_place("bfloat16", 1024, 3, InPlaceTile(128, 3, 1)),
    in_place("bfloat16", 512, 3, InPlaceTile(128, 3, 1), bias=True),
    in_place("float32", 256, 3, InPlaceTile(192, 2, 1), bias=True),
    in_place("float16", 100, 3, InPlaceTile(96, 1, 1)),
    rows("bits", 64, 3, RowsTile(64, 4)),
    rows("bits", 128, 3, RowsTile(128, 3)),
    rows("bits", 250, 3, RowsTile(96, 3)),
    rows("bits", 32, 3, RowsTile(32, 6)),
    rows("bfloat16", 64, 3, RowsTile(64, 3)),
    rows("float32", 128, 3, RowsTile(128, 2)),
    rows("float16", 64, 1, RowsTile(64, 2), last=False),
    rows("bfloat16", 64, 3, RowsTile(64, 4), bias=True),
    rows("float32", 256, 3, RowsTile(128, 2), bias=True),
    rows("bits", 512, 3, RowsTile(128, 2)),
    rows("bfloat16", 512, 3, RowsTile(128, 2)),
    rows("bits", 490, 1, RowsTile(128, 3)),
    wgmma("bfloat16", 64, 3, WgmmaTile(64, 3), residual=PLAIN_SUM),
    wgmma("bfloat16", 128, 3, WgmmaTile(128, 2), residual=PLAIN_SUM),
    wgmma("float16", 64, 3, WgmmaTile(64, 3), residual=FULL_SUM),
    wgmma("float32", 256, 3, WgmmaTile(64, 2), residual=FULL_SUM),
    rows("bfloat16", 64, 3, RowsTile(64, 4), residual=PLAIN_SUM),
    rows("bfloat16", 256, 3, RowsTile(128, 2), residual=PLAIN_SUM),
    rows("float16", 32, 3, RowsTile(32, 4), residual=FULL_SUM),
    rows("float32", 128, 3, RowsTile(96, 2), residual=FULL_SUM),
]
_STEMS = [
    stem(*numbers, tile)
    for tile in STEM_TILES
    for numbers in (
        IMAGENET_STEM,
        VGG_STEM,
        (4, 7, 1, StemCall("float16", True, packed=True)),
        (1, 5, 3, StemCall("float16", True, norm=True, relu=True)),
    )
]
_CHOSEN += _STEMS
_WIDE = [k for k in _CHOSEN if k.entry in WARPGROUP_WIDE]


@pytest.mark.parametrize("arch", jit.ARCHITECTURES)
def test_every_source_compiles_for_every_architecture_without_local_memory(
    arch: str, machine_code: MachineCode
) -> None:
    for kernel in _CHOSEN:
        if not variants.runs_on(kernel, arch):
            continue
        code, log = machine_code(kernel, arch)
        assert jit.Resources.of_log(log).local_bytes == 0, kernel
        assert not any(re.search(r"\b(LDL|STL)\b", line) for line in code), kernel
        if kernel in _WIDE:
            continue
        products = [line for line in code if "MMA." in line and "HFMA2" not in line]
        assert bool(products) == (kernel.source in ("conv_mma.cu", "mma_peak.cu", "stem.cu"))
        if kernel in _STEMS:
            assert all(re.search(r"HMMA.16816.F32|HGMMA.64x64x16.F32", line) for line in products)
        elif arch not in ("sm_100", "sm_120"):  # these emulate it with 8-bit products
            assert all(_BIT_PRODUCT in line for line in products)


@pytest.mark.parametrize("kernel", _WIDE)
def test_wide_products_follow_each_other(kernel: Kernel, machine_code: MachineCode) -> None:
    macros = dict(kernel.macros)
    code, log = machine_code(kernel, "sm_90a")
    # C7510 to C7520: the compiler serializes products, or ignores that registers change hands.
    assert not re.search(r"C75\d\d", log), log
    products = [i for i, line in enumerate(code) if "BGMMA" in line]
    of_rows = kernel.entry == "conv_wgmma_rows"
    in_place = kernel.entry == "conv_wgmma_in_place"
    # Sixteen of them count the activations' bits.
    columns = int(macros["TILE_N"]) + 16 * (of_rows or in_place)
    shape = f"BGMMA.64x{columns}x256.AND.POPC"
    assert all(shape in code[i] for i in products)
    between = code[products[0] : products[-1]]
    waiting = "WARPGROUP.DEPBAR" if in_place else "WARPGROUP"  # blocks begin one after the other
    assert not any(waiting in line for line in between)  # no waiting for a product
    hands_over = any("USETMAXREG" in line for line in code)
    if not of_rows:
        assert hands_over == (int(macros["CONSUMERS"]) > 1)
    if hands_over:
        # Registers are handed on from what the block was launched with: fewer would never suffice.
        launched = 65536 // (128 * (1 + int(macros["CONSUMERS"]))) // 8 * 8
        assert jit.Resources.of_log(log).registers == launched


@pytest.mark.parametrize("kernel", [*_WIDE, *_STEMS, WGMMA_PEAK])
def test_sums_are_not_read_before_their_products_end(
    kernel: Kernel, machine_code: MachineCode
) -> None:
    """On a device that is a race, which sums of few products win."""
    code, _ = machine_code(kernel, "sm_90a")
    assert not read_early(code)


def test_an_early_read_is_found() -> None:
    first = "BGMMA.64x80x256.AND.POPC R64, gdesc[UR8], R64, gsb0 ;"
    second = "BGMMA.64x80x256.AND.POPC R24, gdesc[UR8], R24, gsb0 ;"
    wait, wait_all = (f"WARPGROUP.DEPBAR.LE gsb0, {left} ;" for left in ("0x1", "0x0"))
    of_first, of_second, other = (f"LOP3.LUT R5, {r}, 0x1, RZ ;" for r in ("R103", "R63", "R104"))
    assert read_early([first, second, other, wait, of_first, wait_all, of_second]) == []
    assert read_early([first, second, of_first, wait, of_second, wait_all]) == [of_first, of_second]
    assert read_early([second, "IMAD R24, R1, R2, R3 ;", wait_all]) == ["IMAD R24, R1, R2, R3 ;"]
    assert read_early([first.replace(", gsb0", ""), of_first, first, wait_all]) == [of_first]


_WHOLE = [
    k
    for k in _CHOSEN
    if k.entry in ("conv_wgmma", "conv_wgmma_in_place") or ("RESIDUAL", 1) in k.macros
    if ("STORES", "kWide") in k.macros
]


@pytest.mark.parametrize("kernel", _WHOLE)
def test_wide_stores_are_whole(kernel: Kernel, machine_code: MachineCode) -> None:
    """16 bytes each, and words of signs: none that the compiler took apart."""
    macros = dict(kernel.macros)
    code, _ = machine_code(kernel, "sm_90a")
    stores = [line for line in code if "STG" in line]
    words = int(macros["TILE_N"]) // 32
    blocks = int(macros.get("BLOCKS", 1))
    of_a_word = 0 if macros["OUT"] == "bits" else 4 if macros["OUT"] == "float32" else 2
    assert len([line for line in stores if "STG.E.128" in line]) == of_a_word * words * blocks
    has_signs = macros["OUT"] == "bits" or macros["RESIDUAL"]
    exchanges = 1 if words <= 2 else 2 * -(-words // 4)
    assert len(stores) == blocks * (of_a_word * words + (exchanges if has_signs else 0))


@pytest.mark.parametrize(
    ("kernel", "product", "count"),
    [(MMA_PEAK, _BIT_PRODUCT, 16), (WGMMA_PEAK, "BGMMA.64x256x256.AND.POPC", 8)],
)
def test_peaks_are_loops_of_products_alone(
    kernel: Kernel, product: str, count: int, machine_code: MachineCode
) -> None:
    code, log = machine_code(kernel, "sm_90a")
    assert jit.Resources.of_log(log).local_bytes == 0
    assert not re.search(r"C75\d\d", log), log
    code = [line for line in code if re.search(r"/\*[0-9a-f]{4,}\*/ ", line)]
    products = [i for i, line in enumerate(code) if product in line]
    assert len(products) == count
    assert products[-1] - products[0] <= count  # one instruction more: it counts the rounds


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize(
    ("out", "tile"),
    [
        ("bits", mma_tile.LARGE),
        ("bits", mma_tile.TALL),
        ("bfloat16", mma_tile.LARGE_OF_FLOATS),
        ("bfloat16", mma_tile.TALL_OF_FLOATS),
    ],
)
def test_consumers_multiply_without_waiting(
    out: str, tile: mma_tile.Tile, arch: str, machine_code: MachineCode
) -> None:
    """The loop is a step's products (6 cycles each on an H200) with the loads of the next between
    them, and no barrier."""
    code, _ = machine_code(mma_kernel(out, tile, pairs=out == "bits"), arch)
    # (The loops before it, with fewer products, count bits for the table.)
    loop = max(_innermost_loops(code), key=lambda each: len(_matching(_BIT_PRODUCT, each)))
    rows, columns = tile.warp_pixels // 16, tile.warp_channels // 8
    assert len(_matching(_BIT_PRODUCT, loop)) == rows * columns
    assert len(_matching("LDSM", loop)) == rows + columns // 2
    assert not _matching(r"\bBAR\b|SYNCS|BSYNC", loop)
    assert len(_matching("WARPSYNC", loop)) == 1  # in front of the first product
    assert len(loop) - rows * columns < 24


def test_few_instructions_stand_around_the_products_of_few_channels(
    machine_code: MachineCode,
) -> None:
    """A scheduler issues one a cycle: the loop over tiles, of a warp's share of 64 x 64 outputs,
    bounds the kernel (conv_wgmma takes 600 and more)."""
    code, _ = machine_code(rows("bits", 64, 3, RowsTile(64, 4)), "sm_90a")
    code = [line for line in code if re.search(r"/\*[0-9a-f]{4,}\*/ ", line)]
    first = next(i for i, line in enumerate(code) if "BGMMA" in line)
    last = next(i for i, line in enumerate(code) if "STG" in line)
    assert last - first < 165


def test_a_residual_sum_takes_fewer_cycles_than_its_memory(machine_code: MachineCode) -> None:
    """64 x 64 outputs in 16 bits and their residual cross the memory of an H200 in 925 cycles of a
    multiprocessor, in each of which a scheduler issues one instruction at most."""
    code, _ = machine_code(rows("bfloat16", 64, 3, RowsTile(64, 3), residual=PLAIN_SUM), "sm_90a")
    code = [line for line in code if re.search(r"/\*[0-9a-f]{4,}\*/ ", line)]
    first = next(i for i, line in enumerate(code) if "LDG.E.EF.128" in line)
    last = max(i for i, line in enumerate(code) if "STG" in line)
    assert last - first < 600
    assert len([line for line in code if "HSET2" in line]) == 16  # two signs each


def _innermost_loops(code: list[str]) -> Iterator[list[str]]:
    """Instructions from a label to the first jump, where that goes back to the label."""
    for first, line in enumerate(code):
        if not (label := re.match(r"\s*(\.L_\w+):", line)):
            continue
        end = next(iter(_matching(r"\bBRA\b", code[first:])), None)
        if end is not None and re.search(rf"{re.escape(label[1])}\b", code[first + end]):
            yield _instructions(code[first : first + end])


def _loop(code: list[str], product: str) -> list[str]:
    """The last one with such products: from the jump's target to the jump."""
    last = max(i for i, line in enumerate(code) if product in line)
    first = max(i for i, line in enumerate(code[:last]) if line.strip().startswith(".L_"))
    end = min(i for i, line in enumerate(code) if i > last and re.search(r"\bBRA\b", line))
    return code[first:end]


def _instructions(code: list[str]) -> list[str]:
    return [line for line in code if re.search(r"/\*[0-9a-f]{4,}\*/ ", line)]


def _matching(pattern: str, code: list[str]) -> list[int]:
    return [i for i, line in enumerate(code) if re.search(pattern, line)]


def test_a_step_of_a_wide_stem_is_loads_and_two_products(machine_code: MachineCode) -> None:
    """Ten steps, of which the last two mask what they load; nothing waits for all products before
    the last one."""
    code, log = machine_code(stem(*IMAGENET_STEM, WIDE), "sm_90a")
    assert not re.search(r"C75\d\d", log)
    code = _instructions(code)
    products = _matching("HGMMA", code)
    assert len(products) == 2 * 10
    steps = code[products[1] + 1 : products[-1] + 1]
    assert len(_matching(r"\bLDS R", steps)) == 9 * 8  # a word each
    assert len(_matching(r"\bLDS\.64\b", steps)) == 9 + 2
    assert len(_matching("LOP3", steps)) == 2 * 8
    assert len(steps) < 9 * 22
    assert len(_matching("DEPBAR.LE gsb0, 0x0", steps)) == 0


def test_a_stem_s_bits_are_two_instructions_for_two_values(machine_code: MachineCode) -> None:
    code, _ = machine_code(stem(*VGG_STEM, WIDE), "sm_90a")
    code = _instructions(code)
    first = _matching("DEPBAR.LE gsb0, 0x0", code)[0]
    end = next(i for i in _matching(r"\bBRA\b", code) if i > first)
    decisions = code[first:end]
    for instruction, count in (("F2FP", 32), ("HSET2", 32), ("HMMA", 8)):
        assert len(_matching(instruction, decisions)) == count
    assert len(decisions) < 110


def test_a_step_of_a_narrow_stem_is_loads_masks_and_products(machine_code: MachineCode) -> None:
    code, _ = machine_code(stem(*IMAGENET_STEM, NARROW), "sm_80")
    step = _instructions(_loop(code, "HMMA"))
    assert len(_matching("HMMA", step)) == 16
    assert len(_matching(r"\bLDS\b", step)) == 8 + 4 + 2
    assert len(step) < 60
