"""``pack_and_convolve``, and the packed layer that calls its backend itself: both equal the ops
that they stand for."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext

import pytest
import torch
from cases import CASES, Case, can_pack
from compare import assert_same_bits
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from binop.nn import BinaryConv2d, PackedBinaryConv2d, packed_binary_conv2d

ops = torch.ops.binop
PACKABLE = [case for case in CASES if can_pack(case)]


def _flat(case: Case) -> list[int]:
    pairs = (*case.stride, *case.padding, *case.dilation)
    return [*pairs, case.groups, case.pad_value]


@pytest.mark.parametrize("case", PACKABLE, ids=lambda case: case.name)
def test_it_is_pack_and_then_the_convolution(case: Case, cpu_backend: str) -> None:
    x, weight, _, scale = case.tensors()
    words = ops.pack(weight)
    wanted = ops.binary_conv2d_packed(
        ops.pack(x), words, case.c, scale, **case.options, out_dtype=case.dtype
    )
    got = ops.pack_and_convolve(x, words, scale, _flat(case))
    assert_same_bits(got, wanted)
    assert got.stride() == wanted.stride()


def test_any_strides_and_changed_weights(cpu_backend: str) -> None:
    x = torch.randn(2, 7, 64, 6).transpose(1, 2)
    weight, scale = ops.pack(torch.randn(8, 64, 3, 3)), torch.rand(8)
    options = [1, 1, 1, 1, 1, 1, 1, 0]
    for _ in range(2):
        wanted = ops.binary_conv2d_packed(ops.pack(x), weight, 64, scale, padding=(1, 1))
        assert_same_bits(ops.pack_and_convolve(x, weight, scale, options), wanted)
        weight.numpy()[:] ^= -1  # A way to write that leaves no trace.


def test_options_that_do_not_fit() -> None:
    x, weight = torch.randn(1, 64, 5, 5), ops.pack(torch.randn(8, 64, 3, 3))
    for fake in (False, True):
        with FakeTensorMode() if fake else nullcontext() as mode:
            tensors = [mode.from_tensor(t) if fake else t for t in (x, weight, torch.rand(8))]
            with pytest.raises(ValueError, match=r"options: expected 8 values .*got \[1, 1\]"):
                ops.pack_and_convolve(*tensors, [1, 1])
            with pytest.raises(ValueError, match=r"stride: .*at least 1"):
                ops.pack_and_convolve(*tensors, [0, 1, 1, 1, 1, 1, 1, 0])


def test_vmap_and_flops() -> None:
    x, weight = torch.randn(3, 2, 40, 5, 5), ops.pack(torch.randn(4, 40, 3, 3))
    scale, options = torch.rand(4), [1, 1, 1, 1, 1, 1, 1, 0]
    got = torch.vmap(lambda x: ops.pack_and_convolve(x, weight, scale, options))(x)
    each = [ops.pack_and_convolve(image, weight, scale, options) for image in x]
    assert torch.equal(got, torch.stack(each))
    with FlopCounterMode(display=False) as counter:
        ops.pack_and_convolve(x[0], weight, scale, options)
    assert counter.get_total_flops() == 2 * (2 * 4 * 5 * 5) * (40 * 3 * 3)


@pytest.fixture
def by_library(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one with every call that a layer makes past the dispatcher."""
    calls: list[None] = []
    function = packed_binary_conv2d.call_library

    def counted(*args: object) -> Tensor | None:
        y = function(*args)
        if y is not None:
            calls.append(None)
        return y

    monkeypatch.setattr(packed_binary_conv2d, "call_library", counted)
    return calls


def _layer(**options: object) -> PackedBinaryConv2d:
    return PackedBinaryConv2d.from_float(BinaryConv2d(40, 8, 3, padding=1, **options))


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_plain_call_goes_to_the_library(
    by_library: list[None], mode: type[AbstractContextManager[None]], bias: bool, dtype: torch.dtype
) -> None:
    layer = _layer(bias=bias)
    x = torch.randn(2, 40, 6, 7).to(dtype)
    with torch.autograd.profiler.profile():
        wanted = layer(x)  # A profiler wants to see ops.
    assert not by_library
    with mode():
        got = layer(x)
        assert_same_bits(layer(x.clone()), wanted)  # an inference tensor, in that mode
    assert_same_bits(got, wanted)
    assert got.stride() == wanted.stride()
    assert len(by_library) == 2


def _negated(x: Tensor, scopes: ExitStack) -> Tensor:
    return torch._neg_view(x)


def _double(x: Tensor, scopes: ExitStack) -> Tensor:
    return x.double()


def _wants_gradients(x: Tensor, scopes: ExitStack) -> Tensor:
    return x.requires_grad_()


def _fake(x: Tensor, scopes: ExitStack) -> Tensor:
    return scopes.enter_context(FakeTensorMode(allow_non_fake_inputs=True)).from_tensor(x)


def _counted(x: Tensor, scopes: ExitStack) -> Tensor:
    scopes.enter_context(FlopCounterMode(display=False))
    return x


def _on_a_device(x: Tensor, scopes: ExitStack) -> Tensor:
    scopes.enter_context(torch.device("cpu"))
    return x


def _dual(x: Tensor, scopes: ExitStack) -> Tensor:
    scopes.enter_context(torch.autograd.forward_ad.dual_level())
    return x


@pytest.mark.parametrize(
    "prepare", [_negated, _double, _wants_gradients, _fake, _counted, _on_a_device, _dual]
)
def test_what_stands_between_is_not_passed(by_library: list[None], prepare: object) -> None:
    layer, x = _layer(), torch.randn(2, 40, 6, 7)
    with ExitStack() as scopes:
        x = prepare(x, scopes)
        got = layer(x)
    assert not by_library
    if prepare is not _fake:
        words = ops.pack(x.detach().resolve_neg())
        y = ops.binary_conv2d_packed(
            words, layer.weight, 40, layer.scale, padding=(1, 1), out_dtype=x.dtype
        )
        assert torch.equal(got.detach(), y + layer.bias.to(y.dtype).reshape(-1, 1, 1))


def test_transforms_and_tracers_see_the_ops(by_library: list[None]) -> None:
    layer, x = _layer(), torch.randn(3, 2, 40, 6, 7)
    mapped = torch.vmap(layer)(x)
    traced = make_fx(layer)(x[0])
    assert not by_library
    assert torch.equal(mapped, torch.stack([layer(image) for image in x]))
    assert torch.equal(traced(x[1]), layer(x[1]))
    scales = torch.rand(3, 8)
    del by_library[:]
    scaled = torch.vmap(lambda s: torch.func.functional_call(layer, {"scale": s}, (x[0],)))(scales)
    assert not by_library
    for scale, y in zip(scales, scaled, strict=True):
        assert torch.equal(torch.func.functional_call(layer, {"scale": scale}, (x[0],)), y)


def test_bad_tensors_raise_what_the_ops_raise(by_library: list[None]) -> None:
    layer = _layer()
    with pytest.raises(ValueError, match="no smaller than the kernel"):
        PackedBinaryConv2d(40, 8, 3)(torch.randn(1, 40, 2, 5))
    with pytest.raises(TypeError, match=r"pack: x: expected .*got torch.int32"):
        layer(torch.ones(1, 40, 5, 5, dtype=torch.int32))
    layer.scale = layer.scale[:3]
    with pytest.raises(ValueError, match=r"scale: .*\[8\].*\(3,\)"):
        layer(torch.randn(1, 40, 5, 5))
    assert not by_library
