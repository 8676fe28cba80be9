"""The two ways in which the reference sums, and the settings that could spoil sums anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest
import torch
from cases import CASES, Case

from binop import reference
from binop.checks import check_binary_conv2d

ops = torch.ops.binop


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.dtype is torch.float32 and c.n > 0], ids=lambda c: c.name
)
def test_sum_by_taps_equals_the_direct_sum(case: Case) -> None:
    x, weight, scale_a, scale_w = case.tensors()
    geometry = check_binary_conv2d(x, weight, scale_a, scale_w, **case.options, clip=1.0)
    xh = torch.where(x >= 0, 1.0, -1.0)
    wh = torch.where(weight >= 0, 1.0, -1.0)
    by_taps = reference._dot_by_taps(xh, wh, geometry, case.pad_value)
    direct = reference._dot_direct(xh, wh, geometry, case.pad_value)
    assert torch.equal(by_taps, direct)


@pytest.fixture
def deep() -> tuple[torch.Tensor, torch.Tensor]:
    """Sums far beyond what 8 or 11 significant bits hold exactly: odd, up to 38,025."""
    x = torch.where(torch.rand(1, 4225, 4, 4) < 0.9, 1.0, -1.0)
    return x, torch.ones(2, 4225, 3, 3)


def _wanted(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.conv2d(x.double(), weight.double()).float()


def _autocast() -> AbstractContextManager[object]:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@contextmanager
def _onednn_off() -> Iterator[None]:
    torch.backends.mkldnn.enabled = False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = True


@pytest.mark.usefixtures("cpu_backend")
@pytest.mark.parametrize("setting", [nullcontext, _autocast, _onednn_off])
def test_large_sums_are_exact(
    setting: type[AbstractContextManager[object]], deep: tuple[torch.Tensor, torch.Tensor]
) -> None:
    one = torch.ones(())
    with setting():
        y = ops.binary_conv2d(*deep, one, one)
    assert y.dtype == torch.float32
    assert torch.equal(y, _wanted(*deep))


@pytest.mark.usefixtures("cpu_backend")
def test_large_sums_are_exact_in_medium_precision(deep: tuple[torch.Tensor, torch.Tensor]) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        one = torch.ones(())
        assert torch.equal(ops.binary_conv2d(*deep, one, one), _wanted(*deep))
        with _onednn_off():
            assert torch.equal(ops.binary_conv2d(*deep, one, one), _wanted(*deep))
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("cpu_backend")
def test_autocast_keeps_the_dtype_of_x() -> None:
    x, weight, one = torch.randn(1, 8, 5, 5), torch.randn(4, 8, 3, 3), torch.ones(())
    wanted = ops.binary_conv2d(x, weight, one, one)
    with _autocast():
        assert torch.equal(ops.binary_conv2d(x, weight, one, one), wanted)
        half = ops.binary_conv2d(x.bfloat16(), weight, one, one)
    assert half.dtype is torch.bfloat16
    assert torch.equal(half, wanted.bfloat16())


@pytest.mark.usefixtures("cpu_backend")
def test_one_thread_and_many_give_the_same_bits() -> None:
    x, weight = torch.randn(2, 65, 9, 9), torch.randn(7, 65, 3, 3)
    scale = torch.rand(7)
    one = torch.ones(())
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            results.append(ops.binary_conv2d(x, weight, one, scale))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
