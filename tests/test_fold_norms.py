"""A BatchNorm that a packed layer does itself: the bits of torch's own, whoever computes them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from compare import assert_same_bits
from torch import Tensor, nn

import binop
from binop._cpu import norms
from binop.nn import BinaryConv2d, PackedBinaryConv2d


class Block(nn.Module):
    def __init__(self, channels: int = 40, outputs: int = 70, **options: object) -> None:
        super().__init__()
        self.conv = BinaryConv2d(channels, outputs, 3, padding=1, **options)
        self.norm = nn.BatchNorm2d(outputs)
        with torch.no_grad():
            for vector in (self.norm.weight, self.norm.bias, self.norm.running_mean):
                vector.normal_()
            self.norm.running_var.uniform_(0.1, 30)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


def _pair(**options: object) -> tuple[nn.Module, nn.Module]:
    block = Block(**options).eval().requires_grad_(False)
    return binop.pack_model(block), binop.pack_model(block, fold_norms=True)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one with every call of a BatchNorm2d."""
    calls: list[None] = []
    function = nn.BatchNorm2d.forward

    def counted(self: nn.BatchNorm2d, x: Tensor) -> Tensor:
        calls.append(None)
        return function(self, x)

    monkeypatch.setattr(nn.BatchNorm2d, "forward", counted)
    return calls


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "options",
    [
        {"bias": False},
        {"bias": True},
        {"bias": False, "pad_value": -1},
        {"bias": False, "groups": 2, "channels": 64},
        {"bias": False, "channels": 33, "outputs": 5},
    ],
    ids=str,
)
def test_no_bit_changes(
    options: dict[str, object],
    layout: torch.memory_format,
    forwards: list[None],
    cpu_backend: str,
) -> None:
    apart, folded = _pair(**options)
    # Both signs, and zeros of the scale and of the variance.
    for model in (apart, folded):
        norm = model.norm if model is apart else model.conv.norm
        norm.weight[:3] = torch.tensor([0.0, -0.0, -2.0])
        norm.running_var[4] = 0
    for size in ((2, 6, 7), (1, 3, 3), (0, 4, 4)):
        x = torch.randn(size[0], apart.conv.in_channels, *size[1:]).to(memory_format=layout)
        wanted = apart(x)
        del forwards[:]
        assert_same_bits(folded(x), wanted)
        assert len(forwards) == (cpu_backend == "reference")


def test_changed_vectors_are_seen(forwards: list[None]) -> None:
    apart, folded = _pair()
    x = torch.randn(2, 40, 5, 5)
    for name in ("weight", "bias", "running_mean", "running_var"):
        folded(x)
        for model in (apart, folded):
            norm = model.norm if model is apart else model.conv.norm
            getattr(norm, name).numpy()[3:] += 1  # A way to write that leaves no trace.
        del forwards[:]
        got = folded(x)
        assert not forwards
        assert_same_bits(got, apart(x))
    for model in (apart, folded):
        model.conv.scale.numpy()[:] *= 3
        model.conv.weight.numpy()[:] ^= 5
    assert_same_bits(folded(x), apart(x))
    other = Block().eval()
    apart.conv.load_state_dict(PackedBinaryConv2d.from_float(other.conv).state_dict())
    apart.norm.load_state_dict(other.norm.state_dict())
    folded.load_state_dict(binop.pack_model(other, fold_norms=True).state_dict())
    assert_same_bits(folded(x), apart(x))
    apart.norm.eps = folded.conv.norm.eps = 0.1
    assert_same_bits(folded(x), apart(x))
    for norm in (apart.norm, folded.conv.norm):
        norm.weight.data = norm.weight.data.flip(0)
    assert_same_bits(folded(x), apart(x))


def _trains(model: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    norm.train()
    return x


def _has_a_hook(model: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    norm.register_forward_hook(lambda module, args, y: y + 1)
    return x


def _wants_gradients(model: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    norm.weight.requires_grad_()
    return x


def _is_half(model: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    model.half()
    return x.half()


def _reads_floats_into_half(model: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    model.bfloat16()
    return x.to(torch.bfloat16)


def _has_strides(model: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    norm.running_mean = torch.stack([norm.running_mean] * 2, 1)[:, 0]
    return x


@pytest.mark.parametrize(
    "change",
    [_trains, _has_a_hook, _wants_gradients, _is_half, _reads_floats_into_half, _has_strides],
)
def test_what_the_library_does_not_do_torch_does(
    change: Callable[[nn.Module, nn.Module, Tensor], Tensor], forwards: list[None]
) -> None:
    apart, folded = _pair()
    x = torch.randn(2, 40, 5, 5)
    folded(x)
    changed = [
        change(model, norm, x) for model, norm in ((apart, apart.norm), (folded, folded.conv.norm))
    ]
    wanted = apart(changed[0])
    del forwards[:]
    got = folded(changed[1])
    assert len(forwards) == 1
    assert_same_bits(got.detach(), wanted.detach())
    assert got.requires_grad == wanted.requires_grad


def test_bits_that_the_library_does_not_reach_are_torchs(
    monkeypatch: pytest.MonkeyPatch, forwards: list[None]
) -> None:
    monkeypatch.setattr(norms, "_agrees", lambda *args: False)
    apart, folded = _pair()
    x = torch.randn(2, 40, 5, 5)
    assert_same_bits(folded(x), apart(x))
    assert len(forwards) == 2


def test_every_value_is_compared() -> None:
    """One wrong bit for one value of one channel is enough."""
    norm = binop.batch_norm.BatchNorm(*torch.rand(4, 40), 1e-5)
    weight = torch.zeros(40, 3, 3, 1, dtype=torch.int32)
    scale = torch.rand(40)
    kept = norms.find(norm, weight, scale, None)
    assert kept is not None
    assert norms._agrees(kept.norm, norm, scale, None, 9 * 32)
    # Shift is what comes out for a dot of 0; scale shows in the others.
    for index in (0, 1):
        value = kept.affine[index, 17].item()
        kept.affine[index, 17] = torch.nextafter(torch.tensor(value), torch.tensor(9.0))
        assert not norms._agrees(kept.norm, norm, scale, None, 9 * 32)
        kept.affine[index, 17] = value


@pytest.mark.compile
def test_the_model_copies_saves_exports_and_compiles() -> None:
    apart, folded = _pair()
    x = torch.randn(2, 40, 5, 5)
    wanted = apart(x)
    folded(x)
    assert type(folded.norm) is nn.Identity
    assert type(folded.conv.norm) is nn.BatchNorm2d
    for twin in (copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
        assert_same_bits(twin(x), wanted)
    program = torch.export.export(folded, (x,))
    assert_same_bits(program.module()(x), wanted)
    compiled = torch.compile(folded, backend="binop", fullgraph=True)
    plain = torch.compile(apart, backend="binop", fullgraph=True)
    assert_same_bits(compiled(x), plain(x))


def test_channels_last_leaves_packed_weights_as_they_are() -> None:
    layer = PackedBinaryConv2d.from_float(BinaryConv2d(64, 8, 3))
    assert layer.to(memory_format=torch.channels_last).weight.is_contiguous()


def _shared_norm(model: Block) -> nn.Module:
    return nn.Sequential(model.conv, model.norm, nn.Conv2d(70, 70, 1), model.norm)


def _two_readers(model: Block) -> nn.Module:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = model.conv, model.norm

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(y) + y

    return Reader()


def _not_traceable(model: Block) -> nn.Module:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(model.conv, model.norm)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) if x.sum() > 0 else x

    return Branch()


def _hooked(model: Block) -> nn.Module:
    model.norm.register_forward_hook(lambda module, args, y: y + 1)
    return model


def _in_training(model: Block) -> nn.Module:
    model.norm.train()
    return model


def _without_affine(model: Block) -> nn.Module:
    model.norm = nn.BatchNorm2d(70, affine=False).eval()
    return model


def _own_forward(model: Block) -> nn.Module:
    model.forward = lambda x: x
    return model


def _not_called(model: Block) -> nn.Module:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, x: Tensor) -> Tensor:
            return x

    return Unused()


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (_shared_norm, "called more than once"),
        (_two_readers, "no nn.BatchNorm2d alone reads the output"),
        (_not_traceable, "tracing the model failed: .*control flow"),
        (_hooked, "has hooks"),
        (_in_training, "in training mode"),
        (_without_affine, "not affine"),
        (_own_forward, "a forward of its own"),
        (_not_called, "does not call it"),
    ],
)
def test_what_is_not_folded_says_why(build: Callable[[Block], nn.Module], reason: str) -> None:
    changes: list[binop.Change] = []
    model = build(Block().eval())
    packed = binop.pack_model(model, fold_norms=True, report=changes.append)
    (change,) = changes
    assert change.after == "PackedBinaryConv2d"
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(change.reason)
    assert not any(isinstance(module, nn.Identity) for module in packed.modules())


def test_a_sequential_is_folded() -> None:
    block = Block().eval()
    model = nn.Sequential(block.conv, block.norm, nn.ReLU()).requires_grad_(False)
    changes: list[binop.Change] = []
    folded = binop.pack_model(model, fold_norms=True, report=changes.append)
    assert [str(c) for c in changes] == [
        "0: BinaryConv2d -> PackedBinaryConv2d (converted, norm folded)"
    ]
    x = torch.randn(1, 40, 4, 4)
    assert_same_bits(folded(x), binop.pack_model(model)(x))
