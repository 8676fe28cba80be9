"""On the last device, which of several is not the current one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import Case
from compare import assert_same_bits

import binop

pytestmark = pytest.mark.cuda

_LAYER = Case("layer", 64, 48, h=9, w=10, n=2, dtype=torch.bfloat16, channels_last=True)
_ops = torch.ops.binop


@pytest.fixture(scope="module")
def last() -> torch.device:
    return torch.device("cuda", torch.cuda.device_count() - 1)


def _outputs(x: torch.Tensor, weight: torch.Tensor, *scales: torch.Tensor) -> list[torch.Tensor]:
    """Of every kind of kernel: fused, packing, on packed words, to floats and to bits."""
    packed, filters = _ops.pack(x), _ops.pack(weight)
    scale = (scales[0] * scales[1]).float()
    threshold = torch.arange(48, dtype=torch.int32, device=x.device)
    return [
        _ops.binary_conv2d(x, weight, *scales, padding=(1, 1)),
        packed,
        _ops.unpack(packed, 64, torch.bfloat16),
        _ops.binary_conv2d_packed(packed, filters, 64, scale, padding=(1, 1)),
        _ops.binary_conv2d_threshold(packed, filters, 64, threshold, threshold % 2 == 0),
    ]


def _check(tensors: tuple[torch.Tensor, ...], device: torch.device) -> None:
    for got, wanted in zip(
        _outputs(*(tensor.to(device) for tensor in tensors)), _outputs(*tensors), strict=True
    ):
        assert got.device == device
        assert_same_bits(got, wanted)


def test_devices_in_turn(last: torch.device) -> None:
    """The same shapes, whose calls are prepared per device."""
    assert torch.cuda.current_device() == 0
    for seed in range(2):
        for device in (last, torch.device("cuda", 0), last):
            _check(_LAYER.tensors(seed), device)
    assert torch.cuda.current_device() == 0


def test_a_thread_per_device(last: torch.device) -> None:
    def work(index: int) -> None:
        device = torch.device("cuda", index % (last.index + 1))
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
            for seed in range(10):
                _check(_LAYER.tensors(seed), device)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


@pytest.mark.compile
def test_a_compiled_model(last: torch.device) -> None:
    torch.compiler.reset()
    layers = [binop.nn.BinaryConv2d(64, 64, 3, padding=1) for _ in range(2)]
    model = torch.nn.Sequential(*layers).to(last).eval()
    compiled = torch.compile(model, backend="binop", fullgraph=True)
    with torch.no_grad():
        x = torch.randn(2, 64, 9, 8, device=last)
        assert_same_bits(compiled(x), model(x))
