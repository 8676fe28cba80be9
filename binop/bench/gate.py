"""The correctness gate: what every binop contender must return before it is timed.

The expectation is computed here from the float tensors, by torch's own float64 convolution and
plain bit arithmetic: it shares no code with the ops or their reference.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from binop.bench.cases import ConvCase

# float64 elements of input and output that one chunk of the batch may hold: 1 GiB.
_CHUNK_ELEMENTS = 2**27


class WrongResultError(RuntimeError):
    """A contender returned something else than the simulated convolution: the run must end."""


def expected_dots(x: Tensor, weight: Tensor, case: ConvCase) -> Tensor:
    """The convolution of the signs as int32 ``[N, O, P, Q]``.

    Summed in float64, where even a Winograd transform is off by far less than the 0.5 that
    rounding forgives.
    """
    geometry = case.geometry
    per_image = max(
        case.c * (case.size + 2 * case.padding) ** 2,
        case.o * geometry.out_height * geometry.out_width,
    )
    wh = _signs(weight)
    dots = []
    benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        for chunk in x.split(max(1, _CHUNK_ELEMENTS // per_image)):
            padded = F.pad(_signs(chunk), (case.padding,) * 4, value=float(case.pad_value))
            dots.append(F.conv2d(padded, wh, stride=case.stride).round_().to(torch.int32))
    finally:
        torch.backends.cudnn.benchmark = benchmark
    return torch.cat(dots)


def _signs(values: Tensor) -> Tensor:
    one = torch.ones((), dtype=torch.float64, device=values.device)
    return torch.where(values >= 0, one, -one).contiguous()


def require_scaled(got: Tensor, dots: Tensor, alpha: Tensor, what: str) -> None:
    """``got`` must equal ``alpha * dots`` in float32, rounded to its dtype (SEMANTICS 3)."""
    wanted = (alpha.reshape(1, -1, 1, 1) * dots.to(torch.float32)).to(got.dtype)
    _require_equal(got, wanted, what)


def require_bits(got: Tensor, bits: Tensor, what: str) -> None:
    """``got``, ``[N, P, Q, words]``, must hold ``bits``, ``[N, O, P, Q]``, and a clear tail."""
    channels = bits.shape[1]
    words = (channels + 31) // 32
    lanes = F.pad(bits.permute(0, 2, 3, 1), (0, 32 * words - channels))
    weights = 2 ** torch.arange(32, device=bits.device, dtype=torch.int64)
    # Word by word, because a word of int64 lanes is 256 bytes.
    packed = [(lanes[..., 32 * w : 32 * w + 32] * weights).sum(-1) for w in range(words)]
    unsigned = torch.stack(packed, -1)
    wanted = torch.where(unsigned < 2**31, unsigned, unsigned - 2**32).to(torch.int32)
    _require_equal(got, wanted, what)


def _require_equal(got: Tensor, wanted: Tensor, what: str) -> None:
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        raise WrongResultError(
            f"{what}: expected {wanted.dtype} {tuple(wanted.shape)}, "
            f"got {got.dtype} {tuple(got.shape)}"
        )
    if torch.equal(got, wanted):
        return
    differ = (got != wanted).nonzero()
    first = tuple(differ[0].tolist())
    raise WrongResultError(
        f"{what}: {len(differ)} of {got.numel()} elements differ from the simulated convolution; "
        f"the first at {first}: expected {wanted[first].item()}, got {got[first].item()}"
    )
