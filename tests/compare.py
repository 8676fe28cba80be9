"""Equality to the bit."""

from __future__ import annotations

import torch

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def assert_same_bits(got: torch.Tensor, wanted: torch.Tensor) -> None:
    """Same shape, dtype and bits (so +0.0 differs from -0.0); device and strides may differ."""
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    integer = _INTEGERS[got.element_size()]
    got_bits = got.detach().cpu().contiguous().view(integer)
    wanted_bits = wanted.detach().cpu().contiguous().view(integer)
    different = int((got_bits != wanted_bits).sum())
    assert different == 0, f"{different} of {got.numel()} elements differ"
