"""Chains into thresholds: every result equals eager's bits, whatever the parameters are."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from harness import rewrite
from torch import Tensor, nn
from torch.nn import functional as F

import binop
from binop.inductor.evaluate import Dots
from binop.inductor.thresholds import flips, read_off

pytestmark = pytest.mark.compile
ops = torch.ops.binop
CHANNELS = 35  # more than one word, and a tail


def signs_of(packed: Tensor, channels: int) -> Tensor:
    return ops.unpack(packed, channels, torch.float32)


class Scaled(nn.Module):
    """``(y - mean) * inverse * gamma + beta``, op by op: eager and compiled agree on each."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(CHANNELS, 1, 1) * 5)
        self.inverse = nn.Parameter(torch.rand(CHANNELS, 1, 1))
        self.gamma = nn.Parameter(torch.randn(CHANNELS, 1, 1))
        self.beta = nn.Parameter(torch.randn(CHANNELS, 1, 1))
        with torch.no_grad():
            self.gamma[0] = 0.0
            self.gamma[1] = -0.0
            self.beta[1] = -1.0
            self.beta[2:6] = 0.0
            self.mean[2:6] = 0.0  # the decision falls on a dot of 0, an exact zero

    def forward(self, y: Tensor) -> Tensor:
        return (y - self.mean) * self.inverse * self.gamma + self.beta


class Shifted(nn.Module):
    """RPReLU (ReActNet, arXiv:2003.03488)."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.prelu = nn.PReLU(CHANNELS, init=slope)
        self.before = nn.Parameter(torch.randn(CHANNELS, 1, 1))
        self.after = nn.Parameter(torch.randn(CHANNELS, 1, 1))

    def forward(self, y: Tensor) -> Tensor:
        return self.prelu(y - self.before) + self.after


class Network(nn.Module):
    """conv -> chain -> the bits that the next binary convolution would see."""

    def __init__(self, *chain: nn.Module, padding: int = 1, pad_value: int = 0) -> None:
        super().__init__()
        self.conv = binop.nn.BinaryConv2d(
            8, CHANNELS, 3, padding=padding, bias=False, pad_value=pad_value
        )
        self.chain = nn.Sequential(*chain)

    def forward(self, x: Tensor) -> Tensor:
        return ops.pack(self.chain(self.conv(x)))


CHAINS: dict[str, list[Callable[[], nn.Module]]] = {
    "nothing": [],
    "relu": [nn.ReLU],
    "scaled": [Scaled],
    "scaled-relu-shift": [Scaled, nn.ReLU, Scaled],
    "hardtanh": [Scaled, nn.Hardtanh],
    "clamp": [Scaled, nn.ReLU6],
    "leaky": [Scaled, lambda: nn.LeakyReLU(0.1)],
    "prelu": [Scaled, lambda: nn.PReLU(CHANNELS)],
    "rprelu": [Scaled, lambda: Shifted(0.25)],
}


def build(name: str, **options: int) -> Network:
    return Network(*(part() for part in CHAINS[name]), **options).eval()


def images() -> Tensor:
    x = torch.randn(16, 8, 9, 8)
    x[0] = 1.0
    return x


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("freezing", [True, False])
def test_chain(name: str, freezing: bool, device: str) -> None:
    model, x = build(name).to(device), images().to(device)
    got = rewrite(model, x, freezing=freezing)
    assert torch.equal(got.output, model(x))
    assert got.counts["packed"] == 1
    # PReLU's slope could be negative: not without its value.
    assert got.counts["threshold"] == (0 if not freezing and "prelu" in name else 1)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("pad_value", [-1, 0, 1])
@pytest.mark.parametrize("freezing", [True, False])
def test_both_parities_of_the_sum(padding: int, pad_value: int, freezing: bool) -> None:
    model = build("scaled", padding=padding, pad_value=pad_value)
    x = images()
    got = rewrite(model, x, freezing=freezing)
    assert torch.equal(got.output, model(x))
    assert got.counts["threshold"] == 1


def test_a_decision_that_flips_twice_stays() -> None:
    model = Network(Shifted(-1.0)).eval()  # abs(y - before) + after
    with torch.no_grad():
        model.chain[0].after.fill_(-1.0)
    x = images()
    got = rewrite(model, x)
    assert torch.equal(got.output, model(x))
    assert got.counts["threshold"] == 0
    assert any("flips more than once" in reason for reason in got.reasons)


@pytest.mark.parametrize("freezing", [True, False])
def test_a_second_reader_keeps_the_floats(freezing: bool) -> None:
    network = build("scaled")

    def model(x: Tensor) -> tuple[Tensor, Tensor]:
        y = network.chain(network.conv(x))
        return ops.pack(y), y.relu()

    x = images()
    got = rewrite(model, x, freezing=freezing)
    assert all(torch.equal(a, b) for a, b in zip(got.output, model(x), strict=True))
    assert got.counts["threshold"] == 0
    assert any("reads the float values, too" in reason for reason in got.reasons)


def test_a_residual_is_not_a_chain() -> None:
    network = build("scaled")

    def model(x: Tensor, residual: Tensor) -> Tensor:
        return ops.pack(network.chain(network.conv(x)) + residual)

    # One image of one pixel: the residual looks like a value a channel, and may be one.
    for shape in ((16, CHANNELS, 9, 8), (1, CHANNELS, 1, 1)):
        x, residual = images()[: shape[0], :, : shape[2], : shape[3]], torch.randn(shape)
        got = rewrite(model, x, residual)
        assert torch.equal(got.output, model(x, residual))
    assert got.counts["threshold"] == 0


@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf")])
def test_parameters_that_diverged(special: float) -> None:
    """Frozen ones: whatever they are, the same bits, fused or not."""
    x = images()
    for parameter in ("mean", "inverse", "gamma", "beta"):
        model = build("scaled-relu-shift")
        with torch.no_grad():
            getattr(model.chain[0], parameter)[::3] = special
        assert torch.equal(rewrite(model, x).output, model(x))


@pytest.mark.parametrize("freezing", [True, False])
def test_nan_parameters_at_run_time(freezing: bool) -> None:
    model, x = build("scaled"), images()
    with torch.no_grad():
        model.chain[0].beta[::3] = float("nan")
        model.chain[0].mean[1::3] = float("inf")
    got = rewrite(model, x, freezing=freezing)
    assert got.counts["threshold"] == 1
    assert torch.equal(got.output, model(x))


POOLS = {
    "2": nn.MaxPool2d(2),
    "3s2p1": nn.MaxPool2d(3, 2, 1),
    "ceil": nn.MaxPool2d(2, ceil_mode=True),
    "dilated": nn.MaxPool2d(2, 1, dilation=2),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("freezing", [True, False])
def test_pool_on_bits(pool: str, freezing: bool) -> None:
    x = images()
    for chain in (
        (Scaled(), POOLS[pool]),
        (POOLS[pool], Scaled()),
        (Scaled(), POOLS[pool], Scaled()),
    ):
        model = Network(*chain).eval()
        got = rewrite(model, x, freezing=freezing)
        assert torch.equal(got.output, model(x))
        assert got.counts["pool on bits"] == got.counts["threshold"] == 1


def test_pool_of_values_that_turn_round_stays() -> None:
    model, x = Network(Shifted(-1.0), nn.MaxPool2d(2)).eval(), images()
    got = rewrite(model, x)
    assert torch.equal(got.output, model(x))
    assert any("not monotonic" in reason for reason in got.reasons)


def test_pool_hands_nan_on() -> None:
    model, x = Network(Scaled(), nn.MaxPool2d(2)).eval(), images()
    with torch.no_grad():
        model.chain[0].inverse[3] = float("inf")  # a NaN where y equals the mean
        model.chain[0].mean[3] = 0.0
    got = rewrite(model, x)
    assert torch.equal(got.output, model(x))
    assert any("can be NaN" in reason for reason in got.reasons)


def test_searches_must_pay() -> None:
    model, x = build("scaled"), images()[:1]
    got = rewrite(model, x, freezing=False)
    assert torch.equal(got.output, model(x))
    assert any("costs more" in reason for reason in got.reasons)


def test_read_off_every_pattern_of_one_flip() -> None:
    dots = Dots(first=-4, step=2, count=5)
    for place, flip in itertools.product(range(6), (False, True)):
        decisions = (torch.arange(5) >= place) ^ flip
        threshold, inverted = read_off(decisions[None], dots)
        again = (torch.arange(-4, 5, 2) >= threshold) ^ inverted
        assert torch.equal(again, decisions)
        assert int(flips(decisions[None])) == int(0 < place < 5)


def test_batch_norm_of_every_sign() -> None:
    """Negative, zero and positive gamma through torch's own BatchNorm: its eager kernel rounds
    differently from the decomposition, so that a decision within a rounding of zero may differ;
    none does here, where the shifts stand between the integers."""
    norm = nn.BatchNorm2d(CHANNELS)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(CHANNELS) % 3 - 1)
        norm.bias.normal_()
        norm.running_mean.copy_(torch.randint(-5, 5, (CHANNELS,)) * 0.0271 + 0.01)
        norm.running_var.uniform_(0.5, 2.0)
    model, x = Network(norm, nn.Hardtanh()).eval(), images()
    got = rewrite(model, x)
    assert got.counts["threshold"] == 1
    assert torch.equal(got.output, model(x))


def test_relu_alone_makes_every_bit_one() -> None:
    model, x = build("relu"), images()
    assert bool((signs_of(rewrite(model, x).output, CHANNELS) == 1).all())
    assert torch.equal(F.relu(model.conv(x)) >= 0, torch.ones(16, CHANNELS, 9, 8, dtype=torch.bool))
