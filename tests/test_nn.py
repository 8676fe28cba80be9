"""The layers as their users meet them."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binop.nn import BinaryConv2d, PackedBinaryConv2d
from binop.nn.binary_conv2d import mean_scale

LAYERS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "bias": False, "pad_value": -1},
    {"kernel_size": (3, 2), "padding": "same", "dilation": 2},
    {"kernel_size": 2, "padding": "same", "padding_mode": "circular"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect", "pad_value": 1},
    {"kernel_size": 3, "padding": "valid", "stride": (2, 1)},
    {"kernel_size": 3, "padding": 1, "groups": 2},
    {"kernel_size": 3, "padding": 1, "groups": 64},
    {"kernel_size": 1, "weight_scale": "none"},
    {"kernel_size": 1, "weight_scale": "learned", "input_scale": "learned"},
]
each_layer = pytest.mark.parametrize("options", LAYERS, ids=str)


def _sign(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def _simulated(layer: BinaryConv2d, x: Tensor) -> Tensor:
    """The layer's formula by nn.Conv2d's own forward on signs, in float64."""
    x = x.double()
    padding_mode = layer.padding_mode
    if padding_mode == "zeros" and layer.pad_value != 0:
        rows, columns = layer.padding
        x = F.pad(x, (columns, columns, rows, rows), value=float(layer.pad_value))
    twin = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        0 if padding_mode == "zeros" and layer.pad_value != 0 else layer.padding,
        layer.dilation,
        layer.groups,
        bias=False,
        padding_mode=padding_mode,
        dtype=torch.float64,
    )
    twin.weight.data = _sign(layer.weight.data).double()
    scale = {
        "mean": layer.weight.abs().mean((1, 2, 3)).double(),
        "learned": layer.scale_w,
        "none": torch.ones(1),
    }[layer.weight_scale]
    if layer.input_scale == "learned":
        scale = scale * layer.scale_a
    y = twin(_sign(x)) * scale.reshape(1, -1, 1, 1)
    return y if layer.bias is None else y + layer.bias.reshape(-1, 1, 1)


@each_layer
def test_values(options: dict[str, object]) -> None:
    layer = BinaryConv2d(64, 128, **options)
    x = torch.randn(2, 64, 9, 8)
    torch.testing.assert_close(layer(x).double(), _simulated(layer, x), rtol=1e-6, atol=1e-5)


@each_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_packed_layer_gives_the_same_values(options: dict[str, object], dtype: torch.dtype) -> None:
    layer = BinaryConv2d(64, 128, **options)
    if layer.scale_a is not None:
        layer.scale_a.data.fill_(-0.3)
    packed = PackedBinaryConv2d.from_float(layer)
    x = torch.randn(2, 64, 9, 8).to(dtype)
    y = packed(x)
    assert torch.equal(y, layer(x))
    assert y.dtype is dtype
    assert y.is_contiguous(memory_format=torch.channels_last)


@each_layer
def test_packed_state_dict_round_trip(options: dict[str, object]) -> None:
    layer = BinaryConv2d(64, 128, **options)
    packed = PackedBinaryConv2d.from_float(layer)
    shape = {k: v for k, v in options.items() if k not in ("weight_scale", "input_scale")}
    twin = PackedBinaryConv2d(64, 128, **shape)
    assert list(twin.state_dict()) == list(packed.state_dict())
    twin.load_state_dict(packed.state_dict())
    x = torch.randn(2, 64, 9, 8)
    assert torch.equal(twin(x), layer(x))
    for copied in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert torch.equal(copied(x), layer(x))


def test_packed_weights_take_a_32nd_of_the_bytes() -> None:
    layer = BinaryConv2d(64, 128, 3)
    packed = PackedBinaryConv2d.from_float(layer)
    assert packed.weight.dtype is torch.int32
    assert packed.weight.numel() * 4 * 32 == layer.weight.numel() * 4
    assert not list(packed.parameters())


def test_it_is_a_conv2d() -> None:
    layer = BinaryConv2d(8, 4, 3, 2, 1, 1, 2, False, "zeros", "cpu", torch.float64)
    float_layer = nn.Conv2d(8, 4, 3, 2, 1, 1, 2, False, "zeros", "cpu", torch.float64)
    assert isinstance(layer, nn.Conv2d)
    assert layer(torch.randn(1, 8, 9, 9, dtype=torch.float64)).dtype is torch.float64
    layer.load_state_dict(float_layer.state_dict())
    assert torch.equal(layer.weight, float_layer.weight)
    assert "pad_value=0, clip=1.0, weight_scale='mean', input_scale='none'" in repr(layer)


def test_gradients_reach_every_parameter() -> None:
    layer = BinaryConv2d(8, 4, 3, weight_scale="learned", input_scale="learned")
    names = [name for name, _ in layer.named_parameters()]
    assert sorted(names) == ["bias", "scale_a", "scale_w", "weight"]
    layer(torch.randn(2, 8, 5, 5)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_mean_scale_is_detached() -> None:
    layer = BinaryConv2d(8, 4, 3, bias=False, clip=math.inf)
    x = torch.randn(2, 8, 5, 5)
    layer(x).sum().backward()
    unscaled = BinaryConv2d(8, 4, 3, bias=False, clip=math.inf, weight_scale="none")
    unscaled.load_state_dict(layer.state_dict())
    unscaled(x).sum().backward()
    # SEMANTICS 4: the weight's gradient has no factor scale_w, and no term through the mean.
    assert torch.equal(layer.weight.grad, unscaled.weight.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_mean_does_not_depend_on_the_order(dtype: torch.dtype) -> None:
    weight = torch.randn(16, 96, 3, 3).to(dtype)
    shuffled = weight[:, torch.randperm(96)]
    assert torch.equal(mean_scale(weight), mean_scale(shuffled))
    torch.testing.assert_close(mean_scale(weight), weight.float().abs().mean((1, 2, 3)))


def test_reset_parameters_restarts_the_scales() -> None:
    layer = BinaryConv2d(8, 4, 3, weight_scale="learned", input_scale="learned")
    with torch.no_grad():
        layer.scale_w.fill_(9)
        layer.scale_a.fill_(9)
    layer.reset_parameters()
    assert torch.equal(layer.scale_w, mean_scale(layer.weight))
    assert layer.scale_a.item() == 1


def test_half_and_double_keep_the_packed_scale_exact() -> None:
    layer = BinaryConv2d(32, 8, 3)
    packed = PackedBinaryConv2d.from_float(layer)
    scale = packed.scale.clone()
    for module in (packed.half(), packed.bfloat16(), packed.double(), packed.to("cpu")):
        assert module.scale.dtype is torch.float32
        assert torch.equal(module.scale, scale)
    assert packed.weight.dtype is torch.int32


def test_building_on_meta() -> None:
    with torch.device("meta"):
        packed = PackedBinaryConv2d(32, 8, 3)
    packed = packed.to_empty(device="cpu")
    layer = BinaryConv2d(32, 8, 3)
    packed.load_state_dict(PackedBinaryConv2d.from_float(layer).state_dict())
    x = torch.randn(1, 32, 5, 5)
    assert torch.equal(packed(x), layer(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pad_value": 2}, "pad_value: expected one of .*got 2"),
        ({"clip": -1.0}, "clip: expected .*got -1.0"),
        ({"clip": math.nan}, "clip: expected .*got nan"),
        ({"weight_scale": "max"}, "weight_scale: expected one of .*got 'max'"),
        ({"input_scale": "mean"}, "input_scale: expected one of .*got 'mean'"),
        ({"groups": 3}, "divisible by groups"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BinaryConv2d(8, 4, 3, **options)


def test_bad_inputs() -> None:
    packed = PackedBinaryConv2d(40, 4, 3)
    # 33 channels fill as many words as 40.
    with pytest.raises(ValueError, match=r"input: expected \[N, 40, H, W\], got .*33"):
        packed(torch.randn(1, 33, 5, 5))
    with pytest.raises(ValueError, match=r"x: expected a 4-d tensor"):
        BinaryConv2d(8, 4, 3)(torch.randn(8, 5, 5))
    with pytest.raises(TypeError, match=r"expected binop.nn.BinaryConv2d"):
        PackedBinaryConv2d.from_float(nn.Conv2d(8, 4, 3))
    with pytest.raises(TypeError, match=r"expected torch.nn.Conv2d"):
        BinaryConv2d.from_float(nn.Linear(8, 4))
