"""The last rewrite: ``pack`` and the only convolution that reads it become one op."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.fx.experimental.proxy_tensor import make_fx

import binop
from binop.inductor import join_pack
from binop.inductor.passes import BinopPass

pytestmark = pytest.mark.compile
ops = torch.ops.binop
NAME = join_pack.NAME


def _targets(call: Callable[..., object], *inputs: Tensor) -> list[str]:
    module = make_fx(call, tracing_mode="fake")(*inputs)
    BinopPass()(module.graph)
    return [str(node.target) for node in module.graph.nodes if node.op == "call_function"]


def _tensors(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    x, weight = torch.randn(2, 64, 6, 7).to(dtype), torch.randn(8, 64, 3, 3)
    return [x, ops.pack(weight), torch.rand(8)]


def _convolve(words: Tensor, weight: Tensor, scale: Tensor, **options: object) -> Tensor:
    return binop.functional.binary_conv2d_packed(words, weight, 64, scale, **options)


def test_one_reader() -> None:
    def call(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        return _convolve(ops.pack(x), weight, scale, stride=2, padding=(1, 0), pad_value=-1)

    assert _targets(call, *_tensors()) == ["binop.pack_and_convolve.default"]
    assert counters["binop"][NAME] == 1
    # Where pack and the convolution do not have one dtype, or the library would not agree.
    for dtype in (torch.float16, torch.float64):
        assert "binop.pack.default" in _targets(call, *_tensors(dtype))


def test_two_readers_share_the_words() -> None:
    def call(x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        words = ops.pack(x)
        return _convolve(words, weight, scale), _convolve(words, weight, scale, stride=2)

    assert _targets(call, *_tensors()).count("binop.pack.default") == 1
    assert counters["binop"][NAME] == 0


def test_words_that_come_from_elsewhere_and_a_bias_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, scale = _tensors()

    def packed(words: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        return _convolve(words, weight, scale)

    assert "binop.pack_and_convolve.default" not in _targets(packed, ops.pack(x), weight, scale)

    def with_bias(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        return _convolve(ops.pack(x), weight, scale, bias=scale)

    assert "binop.pack.default" in _targets(with_bias, x, weight, scale)

    def plain(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        return _convolve(ops.pack(x), weight, scale)

    monkeypatch.setattr(join_pack, "DEVICES", set())
    assert "binop.pack.default" in _targets(plain, x, weight, scale)


@pytest.mark.parametrize("dynamic", [False, True])
def test_through_inductor(dynamic: bool) -> None:
    layers = [binop.nn.BinaryConv2d(64, 64, 3, padding=1, bias=False) for _ in range(2)]
    model = binop.pack_model(nn.Sequential(*layers)).eval()
    compiled = torch.compile(model, backend="binop", fullgraph=True, dynamic=dynamic)
    with torch.no_grad():
        for size in ((2, 64, 6, 7), (3, 64, 9, 5)):
            x = torch.randn(size)
            assert torch.equal(compiled(x), model(x))
    assert counters["binop"][NAME] > 0


def test_a_residual_network_joins_every_layer() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = binop.nn.BinaryConv2d(64, 64, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(x)

    model = binop.pack_model(nn.Sequential(Block(), Block())).eval()
    compiled = torch.compile(model, backend="binop", fullgraph=True)
    x = torch.randn(2, 64, 6, 7)
    with torch.no_grad():
        assert torch.equal(compiled(x), model(x))
    assert counters["binop"][NAME] == 2
