"""binop.convert and binop.pack_model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import binop
from binop.nn import BinaryConv2d, PackedBinaryConv2d


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm(self.conv(x))


def _network() -> nn.Sequential:
    body = [Residual(), Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(nn.Conv2d(3, 32, 3), *body, nn.Linear(32, 10)).eval()


def _kinds(model: nn.Module) -> dict[str, str]:
    return {
        name: type(m).__name__ for name, m in model.named_modules() if "Conv2d" in type(m).__name__
    }


def test_first_and_last_stay_float() -> None:
    model = _network()
    converted = binop.convert(model, clip=1.5, pad_value=-1)
    assert _kinds(converted) == {"0": "Conv2d", "1.conv": "BinaryConv2d", "2.conv": "BinaryConv2d"}
    assert _kinds(model) == {"0": "Conv2d", "1.conv": "Conv2d", "2.conv": "Conv2d"}
    layer = converted[1].conv
    assert (layer.clip, layer.pad_value, layer.training) == (1.5, -1, False)
    assert torch.equal(layer.weight, model[1].conv.weight)
    assert layer.weight is not model[1].conv.weight


def test_inplace_keeps_the_parameters() -> None:
    model = _network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    weight = model[1].conv.weight
    before = weight.detach().clone()
    assert binop.convert(model, inplace=True) is model
    assert model[1].conv.weight is weight
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model[1].conv.weight, before)


def test_a_fully_convolutional_network_keeps_its_last_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 2, 1))
    assert list(_kinds(binop.convert(model)).values()) == ["Conv2d", "BinaryConv2d", "Conv2d"]
    everything = binop.convert(model, keep_first=False, keep_last=False)
    assert set(_kinds(everything).values()) == {"BinaryConv2d"}


def test_filter_and_report() -> None:
    changes: list[binop.Change] = []
    model = binop.convert(
        _network(), filter=lambda name, layer: name != "2.conv", report=changes.append
    )
    assert _kinds(model)["2.conv"] == "Conv2d"
    assert [str(change) for change in changes] == [
        "0: Conv2d kept (first convolution)",
        "1.conv: Conv2d -> BinaryConv2d (converted)",
        "2.conv: Conv2d kept (filter)",
    ]
    changes.clear()
    binop.pack_model(model, report=changes.append)
    assert [str(c) for c in changes] == ["1.conv: BinaryConv2d -> PackedBinaryConv2d (converted)"]


def test_other_convolutions_are_left_alone() -> None:
    class Special(nn.Conv2d):
        pass

    normed = parametrizations.weight_norm(nn.Conv2d(8, 8, 3))
    lazy = nn.LazyConv2d(8, 3)
    model = nn.Sequential(nn.Conv2d(8, 8, 3), Special(8, 8, 3), normed, lazy, nn.Linear(1, 1))
    changes: list[binop.Change] = []
    binop.convert(model, report=changes.append)
    assert [change.after for change in changes] == [None] * 4
    assert "Special" in changes[1].reason


def test_a_shared_layer_stays_shared() -> None:
    shared = nn.Conv2d(8, 8, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(8, 8, 1), shared, nn.ReLU(), shared, nn.Conv2d(8, 8, 1))
    converted = binop.convert(model)
    assert type(converted[1]) is BinaryConv2d
    assert converted[1] is converted[3]
    packed = binop.pack_model(converted)
    assert type(packed[1]) is PackedBinaryConv2d
    assert packed[1] is packed[3]


def test_a_single_layer() -> None:
    layer = nn.Conv2d(8, 8, 3)
    assert type(binop.convert(layer)) is nn.Conv2d  # It is the first and the last.
    binary = binop.convert(layer, keep_first=False, keep_last=False)
    assert type(binary) is BinaryConv2d
    assert type(binop.pack_model(binary)) is PackedBinaryConv2d


@pytest.mark.parametrize("inplace", [False, True])
def test_packing_changes_no_value(inplace: bool) -> None:
    model = binop.convert(_network(), weight_scale="learned", input_scale="learned")
    x = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    wanted = model(x)
    packed = binop.pack_model(model, inplace=inplace)
    assert (packed is model) == inplace
    assert torch.equal(packed(x), wanted)


def test_a_packed_model_moves_and_saves() -> None:
    model = binop.pack_model(binop.convert(_network()))
    assert all(not m.training for m in model.modules())
    twin = binop.pack_model(binop.convert(_network()))
    twin.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(twin(x), model(x))
