"""binop.compat.BinaryConv2dForward."""

from __future__ import annotations

import pytest
import torch

from binop.compat import BinaryConv2dForward
from binop.functional import binary_conv2d

ops = torch.ops.binop
GEOMETRY = (3, 2, 1, 1)  # kernel_size, stride, padding, dilation


def _tensors() -> list[torch.Tensor]:
    x, weight = torch.randn(2, 40, 9, 8), torch.randn(6, 40, 3, 3)
    return [t.requires_grad_() for t in (x, weight, torch.tensor(0.7), torch.tensor(0.2))]


def test_values_and_gradients() -> None:
    tensors = _tensors()
    x = tensors[0]
    y = BinaryConv2dForward.apply(*tensors, True, *GEOMETRY)
    wanted = binary_conv2d(*tensors, stride=2, padding=1)
    assert torch.equal(y, wanted)
    g = torch.randn_like(y)
    got = torch.autograd.grad(y, tensors, g)
    plain = torch.autograd.grad(wanted, tensors, g)
    for index in (0, 1, 3):
        assert torch.equal(got[index], plain[index])
    # The original's: from the clipped gradient of x.
    signs = torch.where(x >= 0, 1.0, -1.0)
    torch.testing.assert_close(got[2], (got[0] * signs).sum() / x.numel() ** 0.5)
    assert not torch.isclose(got[2], plain[2])


@pytest.mark.parametrize("shape", [(), (1,)])
def test_only_scale_a_needs_a_gradient(shape: tuple[int, ...]) -> None:
    x, weight, _, scale_w = (t.detach() for t in _tensors())
    scale_a = torch.full(shape, 0.7, requires_grad=True)
    BinaryConv2dForward.apply(x, weight, scale_a, scale_w, True, *GEOMETRY).sum().backward()
    assert scale_a.grad is not None
    assert scale_a.grad.shape == shape


def test_inference_takes_packed_weights() -> None:
    x, weight, scale_a, scale_w = _tensors()
    train = BinaryConv2dForward.apply(x, weight, scale_a, scale_w, True, *GEOMETRY)
    words = ops.pack(weight)
    with torch.no_grad():
        y = BinaryConv2dForward.apply(x, words, scale_a, scale_w, False, *GEOMETRY)
    assert torch.equal(y, train)


@pytest.mark.parametrize("is_train", [True, False])
def test_the_kernel_size_must_fit(is_train: bool) -> None:
    x, weight, scale_a, scale_w = _tensors()
    weight = weight if is_train else ops.pack(weight)
    with pytest.raises(ValueError, match=r"kernel_size: expected .*\(3, 3\), got 5"):
        BinaryConv2dForward.apply(x, weight, scale_a, scale_w, is_train, 5, 2, 1, 1)
