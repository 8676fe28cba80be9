"""Machine code, without a GPU: every source compiles for every architecture, the matrix
instruction is there, and the loops stay out of local memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from machine_code import MachineCode
from test_plan import CALL, layer
from test_plan_wgmma import H200

from binop._cuda import jit, mma_tile, plan_wgmma, plan_wgmma_in_place, plan_wgmma_rows, variants
from binop._cuda.conv_call import ResidualSum
from binop._cuda.conv_kernels import WARPGROUP_WIDE
from binop._cuda.launches import Kernel
from binop._cuda.mma_tile import mma_kernel
from binop._cuda.plan_pack import pack_kernel
from binop._cuda.plan_peak import MMA_PEAK, WGMMA_PEAK
from binop._cuda.plan_stem import NARROW, STEM_TILES, WIDE, StemCall, StemTile, stem_kernel
from binop._cuda.plan_wgmma import WgmmaTile, wgmma_kernel
from binop._cuda.plan_wgmma_in_place import InPlaceTile
from binop._cuda.plan_wgmma_rows import RowsTile, wgmma_rows_kernel
from binop._cuda.wgmma_rows_layout import steps_of

FLOATS = ("float16", "bfloat16", "float32")
_BIT_PRODUCT = "BMMA.168256.AND.POPC"


def _wgmma(
    out: str,
    channels: int,
    kernel: int,
    tile: WgmmaTile,
    *,
    last: bool = True,
    bias: bool = False,
    residual: ResidualSum | None = None,
) -> Kernel:
    geometry = replace(layer(channels, 28, tile.channels), kernel=(kernel, kernel))
    call = replace(CALL, out=out, channels_last=last, bias=bias, residual=residual)
    return wgmma_kernel(geometry, call, tile)


def _in_place(
    out: str, channels: int, kernel: int, tile: InPlaceTile, *, bias: bool = False
) -> Kernel:
    geometry = replace(
        layer(channels, 28, tile.channels), kernel=(kernel,) * 2, padding=(kernel // 2,) * 2
    )
    call = replace(CALL, out=out, bias=bias)
    return plan_wgmma_in_place.plan_wgmma_in_place(geometry, call, H200, tile).kernel


_PLAIN_SUM = ResidualSum(relu=False, activation=False, shift=False)
_FULL_SUM = ResidualSum(relu=True, activation=True, shift=True)


def _rows(
    out: str,
    channels: int,
    kernel: int,
    tile: RowsTile,
    *,
    last: bool = True,
    bias: bool = False,
    residual: ResidualSum | None = None,
) -> Kernel:
    geometry = replace(layer(channels, 28, tile.channels), kernel=(kernel, kernel))
    call = replace(CALL, out=out, channels_last=last, bias=bias, residual=residual)
    return wgmma_rows_kernel(geometry, call, tile)


def _stem(channels: int, kernel: int, stride: int, call: StemCall, tile: StemTile) -> Kernel:
    geometry = replace(layer(channels, 224, 64), kernel=(kernel, kernel), stride=(stride, stride))
    return stem_kernel(geometry, call, tile)


# One of every source and element type, and of every tile and output.
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
    mma_kernel("bfloat16", mma_tile.WIDE),
    mma_kernel("bits", mma_tile.NARROW, pairs=True),
    mma_kernel("bits", mma_tile.SHALLOW, pairs=True),
    mma_kernel("float32", mma_tile.NARROW),
    mma_kernel("bits", mma_tile.MEDIUM),
    mma_kernel("float16", mma_tile.SMALL, rows=False),
    _wgmma("bits", 64, 3, WgmmaTile(64, 4)),
    _wgmma("bits", 1024, 3, WgmmaTile(128, 3)),
    _wgmma("bfloat16", 256, 3, WgmmaTile(224, 2)),
    _wgmma("float32", 100, 3, WgmmaTile(96, 3)),
    _wgmma("float16", 256, 1, WgmmaTile(160, 2), last=False),
    _wgmma("float16", 32, 3, WgmmaTile(32, 1)),
    _wgmma("bfloat16", 64, 3, WgmmaTile(64, 3), bias=True),
    _wgmma("float32", 100, 3, WgmmaTile(128, 2), bias=True),
    _in_place("bits", 1024, 3, InPlaceTile(128, 3, 1)),
    _in_place("bits", 1024, 3, InPlaceTile(128, 2, 2)),
    _in_place("bits", 64, 3, InPlaceTile(64, 4, 1)),
    _in_place("bits", 250, 1, InPlaceTile(32, 1, 2)),
    _in_place("bfloat16", 1024, 3, InPlaceTile(128, 3, 1)),
    _in_place("bfloat16", 512, 3, InPlaceTile(128, 3, 1), bias=True),
    _in_place("float32", 256, 3, InPlaceTile(192, 2, 1), bias=True),
    _in_place("float16", 100, 3, InPlaceTile(96, 1, 1)),
    _rows("bits", 64, 3, RowsTile(64, 4)),
    _rows("bits", 128, 3, RowsTile(128, 3)),
    _rows("bits", 250, 3, RowsTile(96, 3)),
    _rows("bits", 32, 3, RowsTile(32, 6)),
    _rows("bfloat16", 64, 3, RowsTile(64, 3)),
    _rows("float32", 128, 3, RowsTile(128, 2)),
    _rows("float16", 64, 1, RowsTile(64, 2), last=False),
    _rows("bfloat16", 64, 3, RowsTile(64, 4), bias=True),
    _rows("float32", 256, 3, RowsTile(128, 2), bias=True),
    _wgmma("bfloat16", 64, 3, WgmmaTile(64, 3), residual=_PLAIN_SUM),
    _wgmma("bfloat16", 128, 3, WgmmaTile(128, 2), residual=_PLAIN_SUM),
    _wgmma("float16", 64, 3, WgmmaTile(64, 3), residual=_FULL_SUM),
    _wgmma("float32", 256, 3, WgmmaTile(64, 2), residual=_FULL_SUM),
    _rows("bfloat16", 64, 3, RowsTile(64, 4), residual=_PLAIN_SUM),
    _rows("bfloat16", 256, 3, RowsTile(128, 2), residual=_PLAIN_SUM),
    _rows("float16", 32, 3, RowsTile(32, 4), residual=_FULL_SUM),
    _rows("float32", 128, 3, RowsTile(96, 2), residual=_FULL_SUM),
]
_IMAGENET_STEM = (3, 7, 2, StemCall("bfloat16", False, norm=True))
_VGG_STEM = (3, 3, 1, StemCall("bfloat16", False, packed=True))
_STEMS = [
    _stem(*stem, tile)
    for tile in STEM_TILES
    for stem in (
        _IMAGENET_STEM,
        _VGG_STEM,
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
    if not of_rows and int(macros["CONSUMERS"]) > 1:
        # Registers are handed on from what the block was launched with: fewer would never suffice.
        launched = 65536 // (128 * (1 + int(macros["CONSUMERS"]))) // 8 * 8
        assert jit.Resources.of_log(log).registers == launched


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


@pytest.mark.parametrize("tile", [mma_tile.WIDE, mma_tile.NARROW])
def test_little_stands_between_the_products(tile: mma_tile.Tile, machine_code: MachineCode) -> None:
    """A product takes 6 cycles (H200): all else in the loop must fit beside 32 of them."""
    code, _ = machine_code(mma_kernel("bits", tile), "sm_90a")
    code = [line for line in code if re.search(r"/\*[0-9a-f]{4,}\*/ ", line)]
    products = [i for i, line in enumerate(code) if _BIT_PRODUCT in line]
    steps = 2  # the loop is written out for an even and an odd step
    assert len(products) == 32 * steps
    loop = code[products[0] : products[-1] + 1]
    loads = [line for line in loop if "LDSM" in line]
    assert len(loads) == 8  # of one step, between the products of both
    assert len(loop) - len(products) < 2 * 32


def test_few_instructions_stand_around_the_products_of_few_channels(
    machine_code: MachineCode,
) -> None:
    """A scheduler issues one a cycle: the loop over tiles, of a warp's share of 64 x 64 outputs,
    bounds the kernel (conv_wgmma takes 600 and more)."""
    code, _ = machine_code(_rows("bits", 64, 3, RowsTile(64, 4)), "sm_90a")
    code = [line for line in code if re.search(r"/\*[0-9a-f]{4,}\*/ ", line)]
    first = next(i for i, line in enumerate(code) if "BGMMA" in line)
    last = next(i for i, line in enumerate(code) if "STG" in line)
    assert last - first < 165


def test_a_residual_sum_takes_fewer_cycles_than_its_memory(machine_code: MachineCode) -> None:
    """64 x 64 outputs in 16 bits and their residual cross the memory of an H200 in 925 cycles of a
    multiprocessor, in each of which a scheduler issues one instruction at most."""
    code, _ = machine_code(_rows("bfloat16", 64, 3, RowsTile(64, 3), residual=_PLAIN_SUM), "sm_90a")
    code = [line for line in code if re.search(r"/\*[0-9a-f]{4,}\*/ ", line)]
    first = next(i for i, line in enumerate(code) if "LDG.E.EF.128" in line)
    last = max(i for i, line in enumerate(code) if "STG" in line)
    assert last - first < 600
    assert len([line for line in code if "HSET2" in line]) == 16  # two signs each


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
    code, log = machine_code(_stem(*_IMAGENET_STEM, WIDE), "sm_90a")
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
    code, _ = machine_code(_stem(*_VGG_STEM, WIDE), "sm_90a")
    code = _instructions(code)
    first = _matching("DEPBAR.LE gsb0, 0x0", code)[0]
    end = next(i for i in _matching(r"\bBRA\b", code) if i > first)
    decisions = code[first:end]
    for instruction, count in (("F2FP", 32), ("HSET2", 32), ("HMMA", 8)):
        assert len(_matching(instruction, decisions)) == count
    assert len(decisions) < 110


def test_a_step_of_a_narrow_stem_is_loads_masks_and_products(machine_code: MachineCode) -> None:
    code, _ = machine_code(_stem(*_IMAGENET_STEM, NARROW), "sm_80")
    step = _instructions(_loop(code, "HMMA"))
    assert len(_matching("HMMA", step)) == 16
    assert len(_matching(r"\bLDS\b", step)) == 8 + 4 + 2
    assert len(step) < 60


def _stems() -> Iterator[Kernel]:
    calls = [StemCall("bfloat16", bias, packed=True) for bias in (False, True)]
    for bias, norm, relu in product((False, True), repeat=3):
        calls.append(StemCall("float16", bias, norm=norm, relu=relu))
    for channels, kernel, stride in product(range(1, 5), (1, 2, 3, 5, 7), (1, 2, 3, 4)):
        yield from (_stem(channels, kernel, stride, call, WIDE) for call in calls)


def _tiles_of_residual_sums() -> Iterator[Kernel]:
    options = product((_PLAIN_SUM, _FULL_SUM), (32, 64, 128, 256, 512), (1, 3), FLOATS)
    for residual, channels, kernel, out in options:
        geometry = replace(
            layer(channels, 28, 256), kernel=(kernel, kernel), padding=(kernel // 2,) * 2
        )
        call = replace(CALL, out=out, residual=residual)
        for tile in plan_wgmma.tiles(geometry, call, H200):
            yield wgmma_kernel(geometry, call, tile)


# By their stores: how floats are laid out, and by how many channels they fall short of a multiple.
_STORES = {"kWide": (True, 0), "kSingle": (True, 2), "kPixels": (False, 0)}


def _tiles_of_wgmma() -> Iterator[Kernel]:
    """Those with the most consumers."""
    floats = product(("bfloat16", "float32"), _STORES, (False, True))
    # (The most channels: what a border class adds is no half of a word.)
    options = product([("bits", "kWide", False), *floats], (32, 64, 128, 256, 4096))
    for (out, stores, bias), channels in options:
        last, short = _STORES[stores]
        geometry = layer(channels, 28, 256 - short)
        call = replace(CALL, out=out, channels_last=last, bias=bias)
        if plan_wgmma.why_not_wgmma(geometry, call, H200) is not None:
            continue
        most = {tile.channels: tile for tile in plan_wgmma.tiles(geometry, call, H200)}
        yield from (wgmma_kernel(geometry, call, tile) for tile in most.values())


def _tiles_in_place() -> Iterator[Kernel]:
    """Each with as many channels as fill its stores, and with a bias also with others."""
    floats = product(("bfloat16", "float32"), ((False, 192), (True, 192), (True, 190)))
    outputs = [("bits", (False, 192)), *floats]
    for (out, (bias, out_channels)), channels in product(outputs, (64, 128, 256, 384, 512, 4096)):
        geometry, call = layer(channels, 14, out_channels), replace(CALL, out=out, bias=bias)
        if plan_wgmma_in_place.why_not_wgmma_in_place(geometry, call, H200) is not None:
            continue
        for tile in plan_wgmma_in_place.tiles(geometry, call, H200):
            yield plan_wgmma_in_place.plan_wgmma_in_place(geometry, call, H200, tile).kernel


def _tiles_of_rows() -> Iterator[Kernel]:
    floats = product(("bfloat16", "float32"), _STORES, (False, True), (None,))
    sums = product(("bfloat16", "float32"), ("kWide",), (False,), (_PLAIN_SUM, _FULL_SUM))
    every = [("bits", "bits", False, None), *floats, *sums]
    options = product(every, (1, 2, 4, 8), range(32, 193, 32), (1, 3, 5))
    for (out, stores, bias, residual), words, channels, kernel in options:
        steps = steps_of(replace(layer(32 * words, 28, 32), kernel=(kernel, kernel)))
        consumers = plan_wgmma_rows._most_consumers(channels, steps, stores, residual is not None)
        if steps > 9 or consumers == 0:
            continue
        tile = RowsTile(channels, consumers)
        wide = _rows(out, 32 * words, kernel, tile, bias=bias, residual=residual)
        macros = dict(wide.macros) | ({} if out == "bits" else {"STORES": stores})
        yield Kernel(wide.source, tuple(macros.items()))


def _every_kernel() -> Iterator[tuple[Kernel, str]]:
    for arch in jit.ARCHITECTURES:
        yield from ((k, arch) for k in variants.kernels() if variants.runs_on(k, arch))


# The tiles that plans choose among, and with the last all that `compile-kernels` compiles: half a
# second each, and 3,600 in all. `make kernels` looks at all tiles (as it compiles every kernel,
# too), and the suite at one in sixteen; a step that is prime to the sizes of the products above
# meets every value of every option.
_STEP = 17
_EVERY = {
    "residual sums": lambda: [(k, "sm_90a") for k in dict.fromkeys(_tiles_of_residual_sums())],
    "stems": lambda: [(k, "sm_90a") for k in _stems()],
    "wide": lambda: [(k, "sm_90a") for k in dict.fromkeys(_tiles_of_wgmma())],
    "in place": lambda: [(k, "sm_90a") for k in dict.fromkeys(_tiles_in_place())],
    "rows": lambda: [(k, "sm_90a") for k in dict.fromkeys(_tiles_of_rows())],
}
_SAMPLED = _EVERY | {"every architecture": lambda: list(_every_kernel())}


@pytest.mark.parametrize("name", _SAMPLED)
def test_some_kernels_of_every_kind_use_no_local_memory(name: str) -> None:
    _check_local_memory(_SAMPLED[name]()[::_STEP])


@pytest.mark.sweep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("name", _EVERY)
def test_no_tile_uses_local_memory(name: str, part: int) -> None:
    _check_local_memory(_EVERY[name]()[part::8])


def _check_local_memory(kernels: list[tuple[Kernel, str]]) -> None:
    assert kernels
    for kernel, arch in kernels:
        _, log = jit.compile_with_log(kernel, arch)
        assert jit.Resources.of_log(log).local_bytes == 0, (kernel, arch)
        assert not re.search(r"C75\d\d", log), (kernel, log)


def test_the_compiler_s_report_is_understood() -> None:
    log = (
        "ptxas info    : Function properties for conv\n"
        "ptxas         .     8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads\n"
        "ptxas info    : Used 122 registers, used 1 barriers\n"
    )
    assert jit.Resources.of_log(log) == jit.Resources(registers=122, local_bytes=24)
    with pytest.raises(RuntimeError, match="did not report"):
        jit.Resources.of_log("")


def test_devices_get_the_architecture_that_runs_on_them() -> None:
    assert jit.architecture((9, 0)) == "sm_90a"
    assert jit.architecture((8, 7)) == "sm_86"
    assert jit.architecture((10, 3)) == "sm_100"
    for capability in ((7, 0), (13, 0)):
        with pytest.raises(RuntimeError, match="no CUDA kernels for compute capability"):
            jit.architecture(capability)


def test_a_kernel_that_does_not_compile_names_itself_and_the_reason() -> None:
    broken = Kernel("unpack.cu", (("ELEMENT", "float8"),))
    with pytest.raises(RuntimeError, match=r"unpack.cu(.|\n)*sm_80(.|\n)*float8"):
        jit.compile_kernel(broken, "sm_80")


def test_the_disk_cache_holds_what_was_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BINOP_CACHE_DIR", str(tmp_path))
    kernel = _CHOSEN[0]
    first = jit.cubin(kernel, "sm_80")
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == first
    monkeypatch.setattr(jit, "compile_kernel", lambda *_: pytest.fail("compiled again"))
    assert jit.cubin(kernel, "sm_80") == first


def test_without_a_cache_directory_it_compiles_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    monkeypatch.setenv("BINOP_CACHE_DIR", str(in_the_way))
    with pytest.warns(UserWarning, match="cannot keep compiled kernels.*BINOP_CACHE_DIR"):
        assert jit.cubin(_CHOSEN[0], "sm_80").startswith(b"\x7fELF")
    assert list(tmp_path.iterdir()) == [in_the_way]
