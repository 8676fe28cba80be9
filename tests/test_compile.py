"""torch.compile: one graph, the same bits, dynamic shapes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import binop
from binop.functional import binary_conv2d

pytestmark = pytest.mark.compile


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


def _tensors(channels_last: bool, device: str) -> list[Tensor]:
    x = torch.randn(2, 33, 9, 8)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    tensors = [x, torch.randn(6, 33, 3, 3), torch.tensor(0.7), torch.rand(6)]
    return [t.to(device).requires_grad_() for t in tensors]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("pad_value", [-1, 0])
def test_forward_and_backward_equal_eager(channels_last: bool, pad_value: int, device: str) -> None:
    def call(x: Tensor, weight: Tensor, scale_a: Tensor, scale_w: Tensor) -> Tensor:
        options = {"stride": 2, "padding": 1, "pad_value": pad_value}
        return binary_conv2d(x, weight, scale_a, scale_w, **options)

    tensors = _tensors(channels_last, device)
    eager = call(*tensors)
    compiled = torch.compile(call, fullgraph=True)(*tensors)
    assert torch.equal(compiled, eager)
    assert compiled.stride() == eager.stride()
    g = torch.randn_like(eager)
    for got, wanted in zip(
        torch.autograd.grad(compiled, tensors, g),
        torch.autograd.grad(eager, tensors, g),
        strict=True,
    ):
        # Sums of gradients may be ordered differently.
        torch.testing.assert_close(got, wanted)


def test_layers_equal_eager(device: str) -> None:
    layer = binop.nn.BinaryConv2d(33, 6, (3, 2), padding="same", input_scale="learned")
    layer = layer.to(device).eval()
    packed = binop.nn.PackedBinaryConv2d.from_float(layer)
    x = torch.randn(2, 33, 9, 8, device=device)
    wanted = layer(x)
    for module in (layer, packed):
        assert torch.equal(torch.compile(module, fullgraph=True)(x), wanted)


def test_training_in_a_network() -> None:
    def steps(step: object, model: nn.Module, x: Tensor) -> list[float]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        for _ in range(3):
            loss = step(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    def network() -> nn.Module:
        torch.manual_seed(0)
        conv = binop.nn.BinaryConv2d(8, 8, 3, padding=1, weight_scale="learned")
        return nn.Sequential(conv, nn.BatchNorm2d(8), nn.PReLU(), nn.Conv2d(8, 2, 1))

    x = torch.randn(4, 8, 6, 6)
    eager, twin = network(), network()
    compiled = torch.compile(twin, fullgraph=True)
    torch.testing.assert_close(steps(compiled, twin, x), steps(eager, eager, x))


def _unique_graphs() -> int:
    return counters["stats"]["unique_graphs"]


def test_one_graph_for_many_batches_in_training() -> None:
    """Only the batch varies: Inductor's own convolution backward specializes on the image."""
    layer = binop.nn.BinaryConv2d(33, 6, 3, padding=1)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    counters.clear()
    for batch in (2, 3, 5):
        x = torch.randn(batch, 33, 9, 8, requires_grad=True)
        y = compiled(x)
        y.sum().backward()
        assert torch.equal(y, layer(x))
    assert _unique_graphs() == 1


@pytest.mark.parametrize("packed", [False, True])
def test_one_graph_for_many_images_in_inference(packed: bool) -> None:
    layer: nn.Module = binop.nn.BinaryConv2d(33, 6, 3, padding=1, stride=2)
    if packed:
        layer = binop.pack_model(layer)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    counters.clear()
    with torch.no_grad():
        for batch, height, width in ((2, 9, 8), (3, 12, 7), (17, 4, 31)):
            x = torch.randn(batch, 33, height, width)
            assert torch.equal(compiled(x), layer(x))
    assert _unique_graphs() == 1


def test_under_autocast() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), binop.nn.BinaryConv2d(8, 8, 3, bias=False))
    x = torch.randn(1, 3, 9, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        eager = model(x)
        compiled = torch.compile(model, fullgraph=True)(x)
    assert eager.dtype is torch.bfloat16
    assert torch.equal(eager, compiled)
