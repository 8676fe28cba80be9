"""Whole networks: they train, compile to the same bits, decide the same, and export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from networks import NETWORKS, Network
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import config
from torch.nn import functional as F

import binop
from binop.inductor import explain

pytestmark = pytest.mark.compile
every_network = pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)


@every_network
def test_training_decreases_the_loss(network: Network) -> None:
    model = network.build().train()
    x, labels = network.images(16), torch.arange(16) % 10
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(6):
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is not None for p in model.parameters())


@every_network
def test_every_convolution_is_rewritten(network: Network) -> None:
    model = network.build()
    found = explain(model, network.images(2))
    names = [n for n, m in model.named_modules() if isinstance(m, binop.nn.BinaryConv2d)]
    assert [layer.name for layer in found.layers] == names
    assert len(names) == network.layers
    done = [o.rewrite for o in found.outcomes if o.done]
    assert done.count("packed") == network.layers
    assert done.count("threshold") == network.fused
    assert done.count("pool on bits") == network.pools
    assert found.bytes_after < found.bytes_before


def _without_float_output(model: nn.Module) -> nn.Module:
    """Up to the average pooling at the end, or the output layer where there is none."""
    assert isinstance(model, nn.Sequential)
    floats = nn.AdaptiveAvgPool2d | nn.Linear
    return model[: next(i for i, m in enumerate(model) if isinstance(m, floats))]


@every_network
def test_compiled_like_inductor_to_the_bit_and_like_eager_in_decisions(
    network: Network, device: str
) -> None:
    """To the bit against Inductor: the same pointwise arithmetic. Eager's BatchNorm rounds
    differently, so against eager the decisions of 1,000 images are compared (without TF32, in
    which the float stem that freezing folds its BatchNorm into would differ by a thousandth).

    On CUDA, Inductor sums the average pooling in an order that depends on what else is in the
    kernel, and multiplies by the output layer in one of two ways (in 2 of 10 processes on a busy
    H200, torch 2.11, while all before it was equal), so that bits are compared before these, and
    what these make of them within a few roundings; and Triton contracts multiplications and
    additions, which thresholds and residual sums round one by one (``emulate_precision_casts``
    keeps it from that; there are no casts in float32)."""
    model = network.build().to(device)
    batches = [network.images(100).to(device) for _ in range(10)]
    full = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    exact = {"deterministic": True, "emulate_precision_casts": True} if device == "cuda" else {}
    compared = _without_float_output(model) if device == "cuda" else model
    with torch.no_grad(), config.patch(freezing=True, **exact), full:
        wanted = [torch.compile(compared, fullgraph=True)(x) for x in batches]
        torch.compiler.reset()
        got = [torch.compile(compared, backend="binop", fullgraph=True)(x) for x in batches]
        assert counters["binop"]["packed"] == network.layers
        for a, b in zip(got, wanted, strict=True):
            assert torch.equal(a, b)
        if compared is not model:
            torch.compiler.reset()
            before = got
            got = [torch.compile(model, backend="binop", fullgraph=True)(x) for x in batches]
            output = model[len(compared) :]
            torch.testing.assert_close(got, [output(x) for x in before], rtol=1e-5, atol=1e-5)
        eager = [model(x) for x in batches]
    for a, b in zip(got, eager, strict=True):
        assert torch.equal(a.argmax(1), b.argmax(1))


@every_network
def test_export(network: Network, tmp_path: Path) -> None:
    model = binop.pack_model(network.build()).to(memory_format=torch.contiguous_format)
    x = network.images(2)
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad():
        program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    path = tmp_path / "model.pt2"
    torch.export.save(program, path)
    again = torch.export.load(path).module()
    for count in (1, 3):
        x = network.images(count)
        assert torch.equal(again(x), model(x))


def test_parameters_with_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="resolution: expected a multiple of 8, got 20"):
        Network("vgg_bnn", {"resolution": 20}, 20, 0, 0).build()
    with pytest.raises(ValueError, match="outputs: expected 32 or 64, got 128"):
        Network("reactnet", {"plan": ((4, 1),)}, 16, 0, 0).build()


def test_the_surrogate_has_the_sign_of_its_input() -> None:
    from networks import MODELS

    from binop._explain import load

    surrogate: nn.Module = load(f"{MODELS / 'bireal_net'}.py:ApproxSign")().train()
    x = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 0.5, -0.5, 3.0, -3.0, float("nan")])
    assert torch.equal(
        torch.ops.binop.pack(surrogate(x)[None, :, None, None]),
        torch.ops.binop.pack(x[None, :, None, None]),
    )
    x = torch.tensor([-2.0, -0.75, 0.25, 2.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(surrogate(x).sum(), x)
    assert torch.equal(gradient, torch.tensor([0.0, 0.5, 1.5, 0.0]))
