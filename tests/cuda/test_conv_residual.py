"""``binary_conv2d_residual`` in one kernel, to the bit against the composition of ops on the CPU:
the kernel's source on the CPU, and, on a device of compute capability 9.0, the op itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cases import Case, sprinkle
from compare import assert_same_bits
from configurations import (
    ROWS,
    ROWS_TILES,
    TILED,
    WGMMA_TILES,
    force_rows_tile,
    force_wgmma_tile,
    packed_operands,
)
from emulator import emulated_ops
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from binop import residual
from binop._cuda.launches import Device, Launch

_reference = torch.ops.binop
_NAMES = {
    "word",  # two channel tiles, the last part-filled: stores channel by channel
    "two-words",
    "three-words",
    "four-words",
    "deep",
    "tail",
    "1x1-stride2",
    "1x3",
    "groups",
    "groups-part-tile",  # 48 channels a group: groups share words of the signs
    "strided",
}
CHOSEN = [case for case in TILED if case.name in _NAMES]
_ROWS_NAMES = {
    "rows-2-words",
    "rows-4-words",
    "rows-tail-8",
    "rows-tail-1",
    "rows-tail-4",
    "rows-1x1",
    "rows-strided",
    "rows-large",
}
ROWS_CHOSEN = [case for case in ROWS if case.name in _ROWS_NAMES]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@dataclass(frozen=True)
class Chain:
    relu: bool
    activation: bool
    shift: bool


CHAINS = [Chain(False, False, False), Chain(True, True, True), Chain(False, True, False)]


def operands(case: Case, chain: Chain, dtype: torch.dtype, seed: int = 0) -> tuple[Any, ...]:
    """The op's arguments; sums of zeros of both signs, infinities and NaN among the results."""
    generator = torch.Generator().manual_seed(seed)
    x, weight = packed_operands(case, seed)
    scale = torch.rand(case.o, generator=generator) - 0.5
    scale[::5] = -0.0
    norm = torch.randn(4, case.o, generator=generator)
    norm[0, ::3] = 0.0
    norm[2, 1::3] = 0.0
    norm[3, ::2] = -0.0
    norm[2, 7::11] = float("nan")
    norm[1, 5::13] = float("inf")
    activation = torch.randn(3, case.o, generator=generator) if chain.activation else None
    shift = torch.randn(case.o, generator=generator) if chain.shift else None
    if activation is not None:
        activation[:, 2::4] = -0.0
    y = torch.ops.binop.binary_conv2d_packed(x, weight, case.c, scale, None, **case.options)
    residual = torch.randn(y.shape, generator=generator).to(dtype)
    sprinkle(residual, generator)
    residual = residual.contiguous(memory_format=torch.channels_last)
    options = [list(o) if isinstance(o, tuple) else o for o in case.options.values()]
    return (
        x, weight, case.c, scale, norm, residual, activation, shift, chain.relu, *options,
    )  # fmt: skip


def assert_same(got: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...]) -> None:
    (y, signs), (wanted_y, wanted_signs) = got, wanted
    assert_same_bits(signs, wanted_signs)
    # A NaN's own bits are the processor's choice.
    assert torch.equal(y.isnan().cpu(), wanted_y.isnan())
    assert_same_bits(y.nan_to_num(0.5), wanted_y.nan_to_num(0.5))
    assert y.stride() == wanted_y.stride()


def _varied(seed: int, case: Case) -> Case:
    return replace(case, pad_value=(0, 1, 0, -1)[seed % 4])


@pytest.mark.parametrize("tile", list(WGMMA_TILES))
def test_emulated(
    hopper: ModuleType, launched: list[Launch], monkeypatch: pytest.MonkeyPatch, tile: str
) -> None:
    force_wgmma_tile(monkeypatch, tile)
    first = list(WGMMA_TILES).index(tile)
    taken = 0
    for seed, case in list(enumerate(CHOSEN))[first % 2 :: 2]:
        case = _varied(seed, case)
        dtype, chain = DTYPES[(seed + first) % 3], CHAINS[(seed // 2 + first) % 3]
        arguments = operands(case, chain, dtype, seed)
        got = hopper.binary_conv2d_residual(*arguments)
        if case.name == "groups-part-tile":
            assert got is NotImplemented
        else:
            assert_same(got, _reference.binary_conv2d_residual(*arguments))
            taken += 1
    assert len(launched) == taken > 0
    assert all(dict(launch.kernel.macros)["RESIDUAL"] for launch in launched)


@pytest.mark.parametrize("tile", list(ROWS_TILES))
def test_rows_emulated(
    hopper: ModuleType, launched: list[Launch], monkeypatch: pytest.MonkeyPatch, tile: str
) -> None:
    force_rows_tile(monkeypatch, tile)
    first = list(ROWS_TILES).index(tile)
    for seed, case in list(enumerate(ROWS_CHOSEN))[first % 2 :: 2]:
        case = _varied(seed, case)
        dtype, chain = DTYPES[(seed // 2 + first) % 3], CHAINS[(seed // 3 + first) % 3]
        arguments = operands(case, chain, dtype, seed)
        assert_same(
            hopper.binary_conv2d_residual(*arguments), _reference.binary_conv2d_residual(*arguments)
        )
    assert {launch.kernel.source for launch in launched} == {"conv_wgmma_rows.cu"}
    assert all(dict(launch.kernel.macros)["RESIDUAL"] for launch in launched)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_chain_and_dtype_emulated(
    hopper: ModuleType, chain: Chain, dtype: torch.dtype
) -> None:
    case = next(case for case in CHOSEN if case.name == "two-words")
    arguments = operands(case, chain, dtype)
    assert_same(
        hopper.binary_conv2d_residual(*arguments), _reference.binary_conv2d_residual(*arguments)
    )


def test_one_scale_and_an_unaligned_residual_emulated(hopper: ModuleType) -> None:
    case = next(case for case in CHOSEN if case.name == "two-words")
    arguments = list(operands(case, CHAINS[1], torch.bfloat16))
    arguments[3] = arguments[3][1:2]
    residual = arguments[5]
    shifted = torch.empty(residual.numel() + 1, dtype=residual.dtype)[1:]
    shifted = shifted.view(residual.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
    arguments[5] = shifted.copy_(residual)
    assert shifted.data_ptr() % 16 != 0
    assert_same(
        hopper.binary_conv2d_residual(*arguments), _reference.binary_conv2d_residual(*arguments)
    )


def test_a_residual_of_another_layout_emulated(hopper: ModuleType, launched: list[Launch]) -> None:
    case = next(case for case in CHOSEN if case.name == "two-words")
    arguments = list(operands(case, CHAINS[0], torch.bfloat16))
    wanted = _reference.binary_conv2d_residual(*arguments)
    arguments[5] = arguments[5].contiguous()
    assert_same(hopper.binary_conv2d_residual(*arguments), wanted)
    assert len(launched) == 1


def test_what_the_kernel_leaves_to_other_ops(hopper: ModuleType, launched: list[Launch]) -> None:
    case = next(case for case in CHOSEN if case.name == "two-words")
    empty = operands(replace(case, n=0), CHAINS[0], torch.bfloat16)
    assert hopper.binary_conv2d_residual(*empty) is NotImplemented
    groups = next(case for case in CHOSEN if case.name == "groups-part-tile")
    arguments = operands(groups, CHAINS[0], torch.bfloat16)
    assert hopper.binary_conv2d_residual(*arguments) is NotImplemented
    assert launched == []


def _on_cuda(arguments: tuple[Any, ...]) -> list[Any]:
    return [a.cuda() if isinstance(a, torch.Tensor) else a for a in arguments]


@pytest.mark.cuda
@pytest.mark.timeout(300, method="thread")
@pytest.mark.parametrize("tile", [None, *WGMMA_TILES])
@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
def test_on_a_device(
    ops: ModuleType, monkeypatch: pytest.MonkeyPatch, case: Case, tile: str | None
) -> None:
    if tile is not None:  # (only on Hopper; elsewhere the composition)
        force_wgmma_tile(monkeypatch, tile)
    monkeypatch.setattr(ops, "_prepared", {})
    _check_on_device(replace(_varied(CHOSEN.index(case), case), n=4 * case.n))


def _check_on_device(case: Case) -> None:
    for dtype in DTYPES:
        for chain in CHAINS:
            arguments = operands(case, chain, dtype)
            wanted = _reference.binary_conv2d_residual(*arguments)
            assert_same(_reference.binary_conv2d_residual(*_on_cuda(arguments)), wanted)


@pytest.mark.cuda
@pytest.mark.timeout(300, method="thread")
@pytest.mark.parametrize("tile", ROWS_TILES)
@pytest.mark.parametrize("case", ROWS_CHOSEN, ids=lambda case: case.name)
def test_rows_on_a_device(
    ops: ModuleType, monkeypatch: pytest.MonkeyPatch, case: Case, tile: str
) -> None:
    force_rows_tile(monkeypatch, tile)  # (only on Hopper; elsewhere the composition)
    monkeypatch.setattr(ops, "_prepared", {})
    _check_on_device(replace(_varied(ROWS_CHOSEN.index(case), case), n=4 * case.n))


@pytest.mark.cuda
@pytest.mark.sanitize
@pytest.mark.timeout(300, method="thread")
@pytest.mark.parametrize("last", [False, True])
def test_either_layout_of_the_residual_on_a_device(last: bool) -> None:
    case = next(case for case in CHOSEN if case.name == "tail")
    arguments = list(operands(case, CHAINS[1], torch.bfloat16))
    wanted = _reference.binary_conv2d_residual(*arguments)
    if not last:
        arguments[5] = arguments[5].contiguous()
    assert_same(_reference.binary_conv2d_residual(*_on_cuda(tuple(arguments))), wanted)


@pytest.mark.cuda
@pytest.mark.sanitize
@pytest.mark.timeout(300, method="thread")
@pytest.mark.parametrize("tile", ROWS_TILES)
def test_rows_sanitized_on_a_device(
    ops: ModuleType, monkeypatch: pytest.MonkeyPatch, tile: str
) -> None:
    force_rows_tile(monkeypatch, tile)
    monkeypatch.setattr(ops, "_prepared", {})
    case = next(case for case in ROWS_CHOSEN if case.name == "rows-large")
    arguments = operands(case, CHAINS[1], torch.bfloat16)
    wanted = _reference.binary_conv2d_residual(*arguments)
    assert_same(_reference.binary_conv2d_residual(*_on_cuda(arguments)), wanted)


@pytest.mark.cuda
def test_one_launch_on_a_device() -> None:
    case = next(case for case in CHOSEN if case.name == "two-words")
    arguments = _on_cuda(operands(case, CHAINS[1], torch.bfloat16))
    _reference.binary_conv2d_residual(*arguments)
    torch.cuda.synchronize()
    # Without acc_events torch 2.11 warns that events are those of one cycle.
    cuda = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=cuda, acc_events=True) as profiler:
        _reference.binary_conv2d_residual(*arguments)
        torch.cuda.synchronize()
    kernels = [e.key for e in profiler.key_averages() if e.self_device_time_total > 0]
    of_one = kernels in (["conv_wgmma"], ["conv_wgmma_rows"])
    assert of_one == (torch.cuda.get_device_capability() == (9, 0))


def _obstacle(monkeypatch: pytest.MonkeyPatch, channels: int, kernel: int, size: Any) -> str | None:
    """Of FakeTensors on a CUDA device."""
    monkeypatch.setattr(residual, "cuda_obstacle", lambda index: None)
    with FakeTensorMode(shape_env=ShapeEnv()):
        x = torch.empty(2, size, size, channels // 32, dtype=torch.int32, device="cuda:0")
        weight = torch.empty(64, kernel, kernel, channels // 32, dtype=torch.int32, device="cuda:0")
        options = ([1, 1], [kernel // 2] * 2, [1, 1], 1, 0)
        return residual.obstacle(x, weight, channels, torch.bfloat16, *options)


def test_the_compiler_asks_about_the_shape(
    hopper: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _obstacle(monkeypatch, 64, 3, 14) is None
    assert "too many taps" in str(_obstacle(monkeypatch, 256, 7, 14))


def test_the_compiler_asks_about_the_device(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with emulated_ops(Device((8, 9), 128, 101376, 102400), build, []):
        assert "warpgroup-wide" in str(_obstacle(monkeypatch, 64, 3, 14))
    x, weight, channels, *_ = operands(CHOSEN[0], CHAINS[0], torch.bfloat16)
    options = list(CHOSEN[0].options.values())
    why_not = residual.obstacle(x.to("meta"), weight, channels, torch.bfloat16, *options)
    assert why_not == "no kernel on meta"
