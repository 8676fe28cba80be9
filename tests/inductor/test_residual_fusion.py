"""Networks with shortcuts on ``binary_conv2d_residual``: where a device is said to have a kernel,
every sum that goes on as floats and as bits comes from one op, with the same bits."""

from __future__ import annotations

import re

import pytest
import torch
from harness import rewrite
from networks import NETWORKS, Network
from torch import Tensor, nn
from torch._inductor.utils import run_and_get_code

import binop
from binop import residual
from binop.inductor import fuse_residual
from binop.inductor.passes import BinopPass

pytestmark = pytest.mark.compile
RESIDUALS = {"bireal_net": 3, "reactnet": 2, "quicknet": 2}


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse_residual, "DEVICES", {"cpu"})
    monkeypatch.setattr(residual, "cpu_obstacle", lambda: None)


def by_name(name: str) -> Network:
    return next(network for network in NETWORKS if network.name == name)


def decompose(model: nn.Module) -> nn.Module:
    """BatchNorm spelled out as Inductor's decomposition has it, for eager to round alike."""

    class Norm(nn.Module):
        def __init__(self, norm: nn.BatchNorm2d) -> None:
            super().__init__()
            self.mean, self.var = norm.running_mean, norm.running_var
            self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

        def forward(self, x: Tensor) -> Tensor:
            inverse = 1 / (self.var + self.eps).sqrt()
            column = (-1, 1, 1)
            y = (x - self.mean.reshape(column)) * inverse.reshape(column)
            return y * self.weight.reshape(column) + self.bias.reshape(column)

    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, Norm(child))
    return model


@pytest.mark.parametrize("name", RESIDUALS)
@pytest.mark.parametrize("freezing", [False, True])
def test_networks(name: str, freezing: bool) -> None:
    network = by_name(name)
    model, x = decompose(network.build()), network.images(3)
    got = rewrite(model, x, freezing=freezing)
    with torch.no_grad():
        assert torch.equal(got.output, model(x))
    assert got.counts["residual"] == RESIDUALS[name]
    assert got.counts["packed"] == network.layers


def block(*, shifted: bool, dtype: torch.dtype = torch.float32) -> nn.Module:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = binop.nn.BinaryConv2d(32, 40, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(40)
            self.shift = nn.Parameter(torch.randn(40, 1, 1))
            self.next = binop.nn.BinaryConv2d(40, 8, 1)

        def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
            y = residual + self.norm(self.conv(x))
            return y, self.next(y + self.shift if shifted else y)

    return Block().to(dtype).eval()


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_either_order_and_layout(shifted: bool, last: bool) -> None:
    model = decompose(block(shifted=shifted))
    x, residual = torch.randn(2, 32, 6, 5), torch.randn(2, 40, 6, 5)
    if last:
        x, residual = (t.contiguous(memory_format=torch.channels_last) for t in (x, residual))
    got = rewrite(model, x, residual)
    with torch.no_grad():
        wanted = model(x, residual)
    for a, b in zip(got.output, wanted, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()
    assert got.counts["residual"] == 1


def test_a_rounded_sum_that_is_shifted_stays() -> None:
    x, residual = torch.randn(2, 32, 6, 5).half(), torch.randn(2, 40, 6, 5).half()
    assert rewrite(block(shifted=False, dtype=torch.half), x, residual).counts["residual"] == 1
    got = rewrite(block(shifted=True, dtype=torch.half), x, residual)
    assert got.counts["residual"] == 0
    assert any("in 16 bits" in reason for reason in got.reasons)
    with torch._inductor.config.patch(emulate_precision_casts=True):
        got = rewrite(block(shifted=False, dtype=torch.half), x, residual)
    assert got.counts["residual"] == 0
    assert any("after every operation" in reason for reason in got.reasons)


def test_through_inductor() -> None:
    network = by_name("bireal_net")
    model, x = network.build(), network.images(2)
    torch.compiler.reset()
    with torch.no_grad(), torch._inductor.config.patch(freezing=True):
        got = torch.compile(model, backend="binop", fullgraph=True)(x)
        torch.compiler.reset()
        wanted = torch.compile(model, fullgraph=True)(x)
    assert torch.equal(got, wanted)


def generated(model: nn.Module, x: Tensor, *, freezing: bool) -> str:
    torch.compiler.reset()
    with torch.no_grad(), torch._inductor.config.patch(freezing=freezing):
        _, (source,) = run_and_get_code(torch.compile(model, backend="binop", fullgraph=True), x)
    return source


def strides_of(buffer: str, source: str) -> tuple[int, ...]:
    allocated = rf"{buffer} = empty_strided\w*\(\([^)]*\), \(([^)]*)\)"
    checked = rf"size_stride\({buffer}, \([^)]*\), \(([^)]*)\)"
    found = re.search(allocated, source) or re.search(checked, source)
    if found is None:
        other = re.search(rf"{buffer} = (buf\d+)[\n;]", source)
        assert other is not None
        return strides_of(other[1], source)
    return tuple(int(stride) for stride in found[1].split(", "))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("freezing", [False, True])
def test_no_copies_to_another_layout(freezing: bool, last: bool) -> None:
    network = by_name("bireal_net")
    layout = torch.channels_last if last else torch.contiguous_format
    model, x = network.build().to(memory_format=layout), network.images(2)  # type: ignore[call-overload]
    source = generated(model, x.contiguous(memory_format=layout), freezing=freezing)
    calls = re.findall(r"binary_conv2d_residual\.default\((buf.*)\)", source)
    pooled, output, shortcut = (call.split(", ")[5] for call in calls)
    assert re.search(rf"{output} = buf\d+\[0\]\n", source)  # as the op put it out
    if last:
        # If Inductor may choose, it makes this contiguous, for its first reader.
        assert f"binop.pack.default({pooled})" in source
        for residual in (pooled, output, shortcut):
            assert strides_of(residual, source)[1] == 1


@pytest.mark.cuda
@pytest.mark.parametrize("freezing", [False, True])
def test_no_sum_is_composed_on_a_device(monkeypatch: pytest.MonkeyPatch, freezing: bool) -> None:
    """Inductor lays tensors out by other rules there than on the CPU."""
    monkeypatch.setattr(fuse_residual, "DEVICES", {"cuda"})
    monkeypatch.setattr(residual, "binary_conv2d_residual", lambda *_: pytest.fail("composed"))
    network = by_name("bireal_net")
    model, x = network.build().cuda().bfloat16(), network.images(2).cuda().bfloat16()
    source = generated(model, x, freezing=freezing)
    calls = source.count("= torch.ops.binop.binary_conv2d_residual.default(")
    assert calls == (3 if torch.cuda.get_device_capability() == (9, 0) else 0)


def test_a_cpu_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residual, "cpu_obstacle", lambda: "nobody built it")
    network = by_name("bireal_net")
    got = rewrite(network.build(), network.images(1))
    assert got.counts["residual"] == 0
    assert any("nobody built it" in reason for reason in got.reasons)
    without_library = BinopPass().uuid()
    monkeypatch.setattr(residual, "cpu_obstacle", lambda: None)
    assert BinopPass().uuid() != without_library


def test_devices_without_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = BinopPass().uuid()
    monkeypatch.setattr(fuse_residual, "DEVICES", {"cuda"})
    on_cuda = BinopPass().uuid()
    assert on_cuda != on_cpu
    monkeypatch.setattr(fuse_residual, "cuda_devices", lambda: (7,))
    assert BinopPass().uuid() != on_cuda  # code for one machine's devices is not another's
    network = by_name("bireal_net")
    assert rewrite(network.build(), network.images(1)).counts["residual"] == 0
