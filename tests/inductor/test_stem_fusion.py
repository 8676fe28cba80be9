"""The float convolution at the start of a network on ``stem_conv2d`` and ``stem_conv2d_threshold``,
where a device is said to have a kernel. Its inputs and filters are small integers, so that sums are
exact in any order, and results those of the graph without the rewrite, to the bit."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from harness import Rewritten, rewrite
from networks import NETWORKS
from torch import Tensor, nn
from torch._inductor.utils import run_and_get_code

import binop
from binop.inductor import fuse_stem
from binop.inductor.passes import BinopPass

pytestmark = pytest.mark.compile
NAME = fuse_stem.NAME
HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse_stem, "DEVICES", {"cpu"})


@contextmanager
def _without_it() -> Iterator[None]:
    own, fuse_stem.DEVICES = fuse_stem.DEVICES, set()
    try:
        yield
    finally:
        fuse_stem.DEVICES = own


def _on_integers(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy whose first convolution has filters (and biases) of small integers."""
    model = copy.deepcopy(model).to(dtype).eval()
    stem = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        stem.weight.copy_(torch.randint_like(stem.weight, -2, 3))
        if stem.bias is not None:
            stem.bias.copy_(torch.randint_like(stem.bias, -2, 3))
    return model


def _images(dtype: torch.dtype, size: int = 32, count: int = 2) -> Tensor:
    return torch.randint(-2, 3, (count, 3, size, size)).to(dtype)


def _check(model: nn.Module, x: Tensor, wanted: int = 1) -> Rewritten:
    got = rewrite(model, x)
    with _without_it():
        expected = rewrite(model, x)
    assert expected.counts[NAME] == 0
    assert got.counts[NAME] == wanted
    outputs = (r.output if isinstance(r.output, tuple) else (r.output,) for r in (got, expected))
    for ours, theirs in zip(*outputs, strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan())
        assert torch.equal(ours.nan_to_num(0.5), theirs.nan_to_num(0.5))
        assert ours.stride() == theirs.stride()
    return got


def _details(got: Rewritten) -> list[str]:
    return [o.detail for o in got.outcomes if o.rewrite == NAME]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("name", "detail"), [("vgg_bnn", "bits"), ("bireal_net", "floats")])
def test_networks(name: str, detail: str, last: bool, dtype: torch.dtype) -> None:
    network = next(network for network in NETWORKS if network.name == name)
    model = _on_integers(network.build(), dtype)
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert bool((norm.weight < 0).any())
    assert bool((norm.weight == 0).any())
    x = _images(dtype, network.size)
    got = _check(model, x.contiguous(memory_format=torch.channels_last) if last else x)
    assert _details(got)[0].startswith(detail)
    assert got.counts["threshold"] == network.fused
    assert "aten.convolution" not in got.after.split("binop.binary_conv2d")[0]


def test_explain_tells() -> None:
    network = next(network for network in NETWORKS if network.name == "vgg_bnn")
    model, x = network.build().to(torch.bfloat16), _images(torch.bfloat16, network.size)
    found = binop.inductor.explain(model, x)
    assert found.layers[0].input == "bits of 0"
    assert f"0: {NAME} done: bits" in str(found)
    found = binop.inductor.explain(model, x, freezing=False)
    assert f"0: {NAME} not done: freezing is off" in str(found)


class Signs(nn.Module):
    """A float convolution, something, and a binary convolution whose sums show every bit."""

    def __init__(self, between: nn.Module, channels: int = 16, bias: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=bias)
        self.between = between
        self.next = binop.nn.BinaryConv2d(channels, channels, 1, bias=False, weight_scale="none")

    def forward(self, x: Tensor) -> Tensor:
        return self.next(self.between(self.stem(x)))


class Call(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _norm(channels: int = 16) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -1.0, 0.0, -0.0]).repeat(channels // 4))
        norm.bias.copy_(torch.linspace(-3, 3, channels))
        norm.running_mean.copy_(torch.arange(channels) - channels / 2)
        norm.running_var.uniform_(0.1, 4.0)
    return norm


CHAINS = {
    "nothing": nn.Identity(),
    "norm": _norm(),
    "norm-hardtanh": nn.Sequential(_norm(), nn.Hardtanh()),
    "relu-norm": nn.Sequential(nn.ReLU(), _norm()),
    "shift": Call(lambda y: y - 3.0),
    "small": Call(lambda y: 3.0 - y.abs()),  # an interval with two ends
    "never": Call(lambda y: y.clamp(-3.0, -1.0)),
    "always": Call(lambda y: y.clamp(0.0, 1.0)),
}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("chain", CHAINS)
def test_bits_of_every_value(chain: str, dtype: torch.dtype) -> None:
    """Infinities and NaN among the sums as well: from large values, because beside infinite ones
    oneDNN makes NaN of other sums on processors with AVX512_BF16."""
    model = _on_integers(Signs(CHAINS[chain], bias=chain == "norm"), dtype)
    with torch.no_grad():
        model.stem.weight[5] = float("nan")
    x = _images(dtype)
    # Twice that is infinite. No window sees two of them.
    x.flatten()[::97] = torch.finfo(dtype).max
    x.flatten()[::194] *= -1
    sums = model.stem(x)
    assert bool(sums.isposinf().any() and sums.isneginf().any() and sums.isnan().any())
    assert _details(_check(model, x)) == ["bits"]


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (lambda y: y.abs() - 3.0, "positive in no one interval"),
        (lambda y: torch.where(y < 0, -1.0, 1.0).to(y.dtype), "positive in no one interval"),  # NaN
        (lambda y: y.tanh(), "fed by aten.tanh"),
        (lambda y: y + y.mean((2, 3), keepdim=True), "fed by aten.mean"),
    ],
)
def test_what_stays_in_floats(between: Callable[[Tensor], Tensor], reason: str) -> None:
    model = _on_integers(Signs(Call(between)), torch.bfloat16)
    (detail,) = _details(_check(model, _images(torch.bfloat16)))
    assert detail.startswith("floats (alone)")
    assert reason in detail


def test_bias_norm_and_relu_in_floats() -> None:
    layers = nn.Sequential(_norm(), nn.ReLU(), nn.Conv2d(16, 16, 1), _norm())
    model = _on_integers(Signs(layers, bias=True), torch.bfloat16)
    x = _images(torch.bfloat16)
    for images in (x, x.contiguous(memory_format=torch.channels_last)):
        got = _check(model, images)
        assert _details(got)[0].startswith("floats (BatchNorm, ReLU)")
        assert got.after.count("aten.convolution") == 1
        assert "aten.relu" not in got.after


def test_a_value_that_something_else_reads_is_kept() -> None:
    class Both(Signs):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
            y = self.stem(x)
            z = self.between(y)
            return y, z, self.next(z)

    model = _on_integers(Both(_norm()), torch.bfloat16)
    assert _details(_check(model, _images(torch.bfloat16)))[0].startswith("floats (alone)")


def test_what_is_left_alone() -> None:
    model = _on_integers(Signs(_norm()), torch.float32)
    got = rewrite(model, _images(torch.float32))
    assert "it is computed in torch.float32" in got.reasons
    half, x = model.half(), _images(torch.float16)
    got = rewrite(half, x, freezing=False)
    assert any("freezing is off" in reason for reason in got.reasons)
    assert got.counts[NAME] == 0
    half.stem = nn.Conv2d(3, 16, 3, padding=2, dilation=2).half()
    assert any("dilation" in reason for reason in rewrite(half, x).reasons)
    half.stem = nn.Conv2d(3, 16, 3, padding=1).half()
    half.between = nn.Conv2d(16, 16, 3, padding=1).half()
    assert rewrite(half, x).counts[NAME] == 1  # not the one of 16 channels


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", ["vgg_bnn", "bireal_net"])
def test_nothing_is_copied_around_it(name: str, last: bool) -> None:
    """In Inductor's code the op reads the image as it comes, and what follows reads its output."""
    network = next(network for network in NETWORKS if network.name == name)
    model, x = _on_integers(network.build(), torch.bfloat16), _images(torch.bfloat16, network.size)
    layout = torch.channels_last if last else torch.contiguous_format
    model, x = model.to(memory_format=layout), x.contiguous(memory_format=layout)
    caching = {"freezing": True, "fx_graph_cache": False}
    with torch.no_grad(), torch._inductor.config.patch(caching):
        torch.compiler.reset()
        _, (code,) = run_and_get_code(torch.compile(model, backend="binop", fullgraph=True), x)
    body = code[code.index("def call(") :]
    calls = re.findall(
        r"(?:= torch\.ops\.binop\.|^ +)(\w*(?:conv|cpp_fused)\w*)", body, re.MULTILINE
    )
    wanted = {
        "vgg_bnn": ["stem_conv2d_threshold", "binary_conv2d_threshold"],
        "bireal_net": ["stem_conv2d", "cpp_fused_max_pool2d_with_indices_0"],
    }
    assert calls[:2] == wanted[name]


def test_through_inductor() -> None:
    network = next(network for network in NETWORKS if network.name == "vgg_bnn")
    model, x = _on_integers(network.build(), torch.bfloat16), _images(torch.bfloat16, network.size)
    with torch.no_grad(), torch._inductor.config.patch(freezing=True):
        torch.compiler.reset()
        got = torch.compile(model, backend="binop", fullgraph=True)(x)
        wanted = rewrite(model, x).output
    assert torch.equal(got.argmax(1), wanted.argmax(1))
    assert torch.allclose(got.float(), wanted.float(), rtol=0.02, atol=0.02)


def test_devices_without_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = BinopPass().uuid()
    monkeypatch.setattr(fuse_stem, "DEVICES", {"cuda"})
    on_cuda = BinopPass().uuid()
    assert on_cuda != on_cpu
    monkeypatch.setattr(fuse_stem, "cuda_devices", lambda: (7,))
    assert BinopPass().uuid() != on_cuda  # code for one machine's devices is not another's
    model = _on_integers(Signs(_norm()), torch.bfloat16)
    assert rewrite(model, _images(torch.bfloat16)).counts[NAME] == 0
