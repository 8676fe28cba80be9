"""A few calls that run every kernel once, small enough for compute-sanitizer (`make sanitize`)."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from cases import Case
from compare import assert_same_bits
from configurations import (
    FORCE_WIDE,
    IN_PLACE,
    IN_PLACE_TILES,
    ROWS,
    ROWS_TILES,
    TILES,
    WGMMA_TILES,
    force_in_place_tile,
    force_rows_tile,
    force_tile,
    force_wgmma_tile,
    never_fuse,
    packed_operands,
)

# A kernel that waits forever is killed with its process: a signal would wait for the device.
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.sanitize,
    pytest.mark.timeout(300, method="thread"),
]

_ops = torch.ops.binop
CONVOLUTIONS = [
    Case("mma-16-byte-copies", 128, 136, h=6, w=7, n=2),  # large tiles are part-filled
    Case("mma-8-byte-copies", 64, 64, h=6, w=7, n=2, stride=(2, 1)),
    Case("mma-4-byte-copies", 96, 33, h=5, w=6, pad_value=1),
    Case("mma-tails", 100, 40, h=5, w=6, dilation=(2, 1), padding=(2, 1)),
    Case("mma-groups", 64, 18, h=5, w=6, groups=2, pad_value=-1),
    Case("popcount", 33, 5, h=5, w=6, stride=(2, 2)),
    Case("popcount-depthwise", 6, 6, h=5, w=6, groups=6),
    Case("many-tiles", 32, 72, h=40, w=41, n=8),  # larger tiles than the few-pixel cases take
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("may_fuse", [False, True])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: case.name)
def test_binary_conv2d(
    ops: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    case: Case,
    may_fuse: bool,
    channels_last: bool,
    dtype: torch.dtype,
) -> None:
    if not may_fuse:
        never_fuse(monkeypatch)
    monkeypatch.setattr(ops, "_prepared", {})
    case = replace(case, dtype=dtype, channels_last=channels_last)
    tensors = case.tensors()
    got = _ops.binary_conv2d(*(t.cuda() for t in tensors), **case.options)
    assert_same_bits(got, _ops.binary_conv2d(*tensors, **case.options))


def _check_packed_output(ops: Any, case: Case) -> None:
    x, weight, *_ = case.tensors()
    threshold = torch.arange(case.o, dtype=torch.int32) - case.o // 2
    arguments = (_ops.pack(x), _ops.pack(weight), case.c, threshold, threshold % 3 == 0)
    on_gpu = [a.cuda() if isinstance(a, torch.Tensor) else a for a in arguments]
    got = ops.binary_conv2d_threshold(*on_gpu, **case.options)
    assert_same_bits(got, _ops.binary_conv2d_threshold(*arguments, **case.options))


@pytest.mark.parametrize("case", [c for c in CONVOLUTIONS if c.groups < 6], ids=lambda c: c.name)
def test_packed_output(case: Case) -> None:
    _check_packed_output(_ops, case)


@pytest.mark.parametrize("name", TILES)
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("case", CONVOLUTIONS[:5], ids=lambda case: case.name)
def test_every_tile(
    ops: ModuleType, monkeypatch: pytest.MonkeyPatch, case: Case, resident: bool, name: str
) -> None:
    force_tile(monkeypatch, name, resident=resident)
    _check_both_outputs(ops, monkeypatch, case)


@pytest.mark.parametrize("name", WGMMA_TILES)
@pytest.mark.parametrize("case", CONVOLUTIONS[:5], ids=lambda case: case.name)
def test_every_wgmma_tile(
    ops: ModuleType, monkeypatch: pytest.MonkeyPatch, case: Case, name: str
) -> None:
    force_wgmma_tile(monkeypatch, name)  # (only on Hopper; elsewhere the plan's choice)
    _check_both_outputs(ops, monkeypatch, case)


# (A sanitizer takes long: each case with one of the tiles.)
@pytest.mark.parametrize("case", IN_PLACE, ids=lambda case: case.name)
def test_tiles_in_place(ops: ModuleType, monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    name = list(IN_PLACE_TILES)[IN_PLACE.index(case) % len(IN_PLACE_TILES)]
    force_in_place_tile(monkeypatch, name)  # (only on Hopper; elsewhere the plan's choice)
    _check_both_outputs(ops, monkeypatch, case)


@pytest.mark.parametrize("forced", FORCE_WIDE)
def test_a_bias(ops: ModuleType, monkeypatch: pytest.MonkeyPatch, forced: str) -> None:
    FORCE_WIDE[forced](monkeypatch)
    monkeypatch.setattr(ops, "_prepared", {})
    case = Case("bias", 128, 104, h=9, w=8, n=2)
    x, weight = packed_operands(case)
    arguments = (x, weight, case.c, torch.randn(case.o), torch.randn(case.o))
    options = [*case.options.values(), torch.bfloat16]
    on_gpu = [a.cuda() if isinstance(a, torch.Tensor) else a for a in arguments]
    got = ops.binary_conv2d_packed(*on_gpu, *options)
    assert_same_bits(got, _ops.binary_conv2d_packed(*arguments, *options))


@pytest.mark.parametrize("name", ROWS_TILES)
@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.name)
def test_every_tile_of_rows(
    ops: ModuleType, monkeypatch: pytest.MonkeyPatch, case: Case, name: str
) -> None:
    force_rows_tile(monkeypatch, name)  # (only on Hopper; elsewhere the plan's choice)
    _check_both_outputs(ops, monkeypatch, case)


def _check_both_outputs(ops: Any, monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    monkeypatch.setattr(ops, "_prepared", {})
    for channels_last in (False, True):
        tensors = replace(case, channels_last=channels_last, dtype=torch.bfloat16).tensors()
        got = ops.binary_conv2d(*(t.cuda() for t in tensors), **case.options)
        assert_same_bits(got, _ops.binary_conv2d(*tensors, **case.options))
    _check_packed_output(ops, case)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("channels", [33, 64])
@pytest.mark.parametrize("layout", ["nchw", "nhwc", "strided"])
def test_pack_and_unpack(layout: str, channels: int, dtype: torch.dtype) -> None:
    x = Case("pack", channels, 1, h=5, w=8, n=3, dtype=dtype).tensors()[0]
    if layout == "nhwc":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        x = x[:, :, ::2, ::3]
    scale_a = torch.tensor(0.8)
    wanted = _ops.pack_with_mask(x, scale_a, 1.0)
    got = _ops.pack_with_mask(x.cuda(), scale_a.cuda(), 1.0)
    for ours, theirs in zip((*got, _ops.pack(x.cuda())), (*wanted, wanted[0]), strict=True):
        assert_same_bits(ours, theirs)
    assert_same_bits(_ops.unpack(got[0], channels, dtype), _ops.unpack(wanted[0], channels, dtype))
