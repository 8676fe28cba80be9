"""Every convolution kernel against the reference on the CPU, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
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
    TILES,
    WGMMA_TILES,
    force_in_place_tile,
    force_rows_tile,
    force_tile,
    force_wgmma_tile,
    never_fuse,
    never_wgmma,
    packed_operands,
)

import binop  # noqa: F401  (registers the ops)
from binop._cuda import plan_conv, plan_fused

# A kernel that waits forever is killed with its process: a signal would wait for the device.
pytestmark = [pytest.mark.cuda, pytest.mark.timeout(300, method="thread")]

_reference = torch.ops.binop
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


@pytest.fixture(
    params=[
        "fused",
        "popcount",
        *(f"{name}-{kept}" for name in TILES for kept in ("resident", "staged")),
        # (Only on Hopper; elsewhere the plan's choice.)
        *(f"wgmma-{name}" for name in WGMMA_TILES),
        *(f"places-{name}" for name in IN_PLACE_TILES),
        *(f"rows-{name}" for name in ROWS_TILES),
    ]
)
def kernel(
    ops: ModuleType, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Forces one kernel on every shape that it can take, also where the plan prefers another."""
    if request.param == "popcount":
        never_fuse(monkeypatch)
        never_wgmma(monkeypatch)
        monkeypatch.setattr(plan_conv, "why_not_mma", lambda *_: "forced")
    elif request.param == "fused":
        for limit in ("_MAX_INPUT_WORDS", "_MAX_FILTER_WORDS", "_MAX_PIXELS"):
            monkeypatch.setattr(plan_fused, limit, 5000)
    elif request.param.startswith("places-"):
        force_in_place_tile(monkeypatch, request.param.removeprefix("places-"))
    elif request.param.startswith("rows-"):
        force_rows_tile(monkeypatch, request.param.removeprefix("rows-"))
    elif request.param.startswith("wgmma-"):
        force_wgmma_tile(monkeypatch, request.param.removeprefix("wgmma-"))
    else:
        name, kept = request.param.rsplit("-", 1)
        force_tile(monkeypatch, name, resident=kept == "resident")
    ops._prepared.clear()
    yield request.param
    ops._prepared.clear()


def _options(case: Case) -> list[object]:
    return [case.stride, case.padding, case.dilation, case.groups, case.pad_value]


def _on_gpu(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.cuda() for tensor in tensors]


def _check_float(ops: ModuleType, case: Case, tensors: list[torch.Tensor]) -> None:
    wanted = _reference.binary_conv2d(*tensors, *_options(case))
    got = ops.binary_conv2d(*_on_gpu(tensors), *_options(case))
    assert_same_bits(got, wanted)
    assert got.stride() == wanted.stride()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_float_cases(ops: ModuleType, case: Case) -> None:
    if case.dtype is torch.float64:
        case = replace(case, dtype=torch.float32)
    _check_float(ops, case, list(case.tensors()))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", _FLOATS)
@pytest.mark.parametrize("pad_value", [-1, 0, 1])
def test_float_tiles(
    ops: ModuleType, kernel: str, pad_value: int, dtype: torch.dtype, channels_last: bool
) -> None:
    for case in [*TILED, *IN_PLACE, *ROWS]:
        case = replace(case, pad_value=pad_value, dtype=dtype, channels_last=channels_last)
        _check_float(ops, case, list(case.tensors()))


@pytest.mark.parametrize("pad_value", [-1, 0, 1])
def test_packed(ops: ModuleType, kernel: str, pad_value: int) -> None:
    for seed, case in enumerate([*TILED, *IN_PLACE, *ROWS, *filter(can_pack, CASES)]):
        case = replace(case, pad_value=pad_value)
        x, weight = packed_operands(case, seed)
        scale = torch.randn(case.o if seed % 3 else 1)
        bias = torch.randn(case.o) if seed % 2 else None
        args = [*_options(case), _FLOATS[seed % 3]]
        wanted = _reference.binary_conv2d_packed(x, weight, case.c, scale, bias, *args)
        gpu_bias = None if bias is None else bias.cuda()
        got = ops.binary_conv2d_packed(
            x.cuda(), weight.cuda(), case.c, scale.cuda(), gpu_bias, *args
        )
        assert_same_bits(got, wanted)
        assert got.stride() == wanted.stride()


@pytest.mark.parametrize("forced", FORCE_WIDE)
def test_a_bias(ops: ModuleType, monkeypatch: pytest.MonkeyPatch, forced: str) -> None:
    FORCE_WIDE[forced](monkeypatch)  # (only on Hopper; elsewhere the plan's choice)
    monkeypatch.setattr(ops, "_prepared", {})
    for seed, case in enumerate([*IN_PLACE, *ROWS]):
        x, weight = packed_operands(case, seed)
        scale, bias = torch.randn(case.o), torch.randn(case.o)
        every_other = torch.stack([bias, bias + 1], 1).flatten()[::2]
        for given in (bias, every_other):
            args = [*_options(case), torch.bfloat16]
            wanted = _reference.binary_conv2d_packed(x, weight, case.c, scale, given, *args)
            got = ops.binary_conv2d_packed(
                x.cuda(), weight.cuda(), case.c, scale.cuda(), given.cuda(), *args
            )
            assert_same_bits(got, wanted)


@pytest.mark.parametrize("pad_value", [-1, 0, 1])
def test_threshold(ops: ModuleType, kernel: str, pad_value: int) -> None:
    for seed, case in enumerate([*TILED, *IN_PLACE, *ROWS, *filter(can_pack, CASES)]):
        case = replace(case, pad_value=pad_value)
        x, weight = packed_operands(case, seed)
        threshold = torch.randint(-40, 40, (case.o,), dtype=torch.int32)
        threshold[::7] = torch.iinfo(torch.int32).min
        threshold[3::7] = torch.iinfo(torch.int32).max
        flip = torch.rand(case.o) < 0.5
        tensors = [x, weight, case.c, threshold, flip]
        wanted = _reference.binary_conv2d_threshold(*tensors, *_options(case))
        gpu = [t.cuda() if isinstance(t, torch.Tensor) else t for t in tensors]
        assert_same_bits(ops.binary_conv2d_threshold(*gpu, *_options(case)), wanted)


@pytest.mark.parametrize("dtype", [*_FLOATS, torch.float64])
@pytest.mark.parametrize("per_channel", [False, True])
def test_scales_of_any_dtype(ops: ModuleType, dtype: torch.dtype, per_channel: bool) -> None:
    case = Case("scales", 40, 9)
    x, weight, *_ = case.tensors()
    scale_a = torch.tensor([0.3], dtype=dtype)
    scale_w = (torch.randn(9 if per_channel else 1) * 1e-3).to(dtype)
    _check_float(ops, case, [x, weight, scale_a, scale_w])


def test_scales_that_make_subnormals_zeros_and_infinities(ops: ModuleType) -> None:
    case = Case("extremes", 64, 8, n=2, padding=(0, 0))  # no dot of 0: NaN has no one bit pattern
    x, weight, *_ = case.tensors()
    x, weight = x[:, :63], weight[:, :63]
    scale_w = torch.tensor([1e-38, -1e-38, 1e-45, 0.0, -0.0, 3e38, -3e38, 1e-30])
    for scale_a in (1.0, 1e-3, -2.0, 1e-20):
        _check_float(ops, case, [x, weight, torch.tensor(scale_a), scale_w])


def test_strided_operands(ops: ModuleType) -> None:
    case = Case("strided", 64, 16, h=6, w=7, n=2)
    x, weight, scale_a, scale_w = (t.cuda() for t in case.tensors())
    wanted = ops.binary_conv2d(x, weight, scale_a, scale_w, padding=(1, 1))
    wide = torch.randn(2, 128, 12, 7, device="cuda")
    wide[:, ::2, ::2] = x
    every_other = torch.stack([scale_w, scale_w + 1], 1).flatten()[::2]
    got = ops.binary_conv2d(wide[:, ::2, ::2], weight, scale_a, every_other, padding=(1, 1))
    assert_same_bits(got, wanted)
    expanded = scale_w[:1].expand(16)
    got = ops.binary_conv2d(x, weight, scale_a, expanded, padding=(1, 1))
    assert_same_bits(got, ops.binary_conv2d(x, weight, scale_a, scale_w[:1], padding=(1, 1)))


def test_packed_operands_at_any_address(ops: ModuleType) -> None:
    case = Case("offset", 128, 16, h=6, w=6, n=2)
    x, weight = (t.cuda() for t in packed_operands(case))
    scale = torch.ones(1, device="cuda")
    wanted = ops.binary_conv2d_packed(x, weight, case.c, scale, padding=(1, 1))
    for skipped in (1, 2, 3):
        storage = torch.zeros(x.numel() + skipped, dtype=torch.int32, device="cuda")
        shifted = storage[skipped:].view_as(x).copy_(x)
        got = ops.binary_conv2d_packed(shifted, weight, case.c, scale, padding=(1, 1))
        assert_same_bits(got, wanted)
    transposed = x.transpose(1, 2).contiguous().transpose(1, 2)
    got = ops.binary_conv2d_packed(transposed, weight, case.c, scale, padding=(1, 1))
    assert_same_bits(got, wanted)


def test_large_layers_use_the_plan(ops: ModuleType) -> None:
    for c, size, o, n in (
        (64, 56, 64, 4),
        (128, 28, 128, 32),
        (256, 14, 256, 64),
        (512, 7, 512, 2),
    ):
        case = Case("layer", c, o, h=size, w=size, n=n, dtype=torch.bfloat16, channels_last=True)
        _check_float(ops, case, list(case.tensors()))


def test_errors_are_the_reference_s(ops: ModuleType) -> None:
    x, weight, scale_a, scale_w = (t.cuda() for t in Case("error", 8, 4).tensors())
    with pytest.raises(ValueError, match="pad_value: expected -1, 0 or 1, got 2"):
        ops.binary_conv2d(x, weight, scale_a, scale_w, pad_value=2)
    with pytest.raises(RuntimeError, match="scale_w: expected the device of x"):
        ops.binary_conv2d(x, weight, scale_a, scale_w.cpu())
    with pytest.raises(TypeError, match="float64 on the CPU only"):
        ops.binary_conv2d(x.double(), weight, scale_a, scale_w)
