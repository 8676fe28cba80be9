"""Checks of one argument each: the vocabulary that ``binop.checks`` is written in.

Every message reads ``op: argument: expected <wanted>, got <what came>``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from binop.geometry import Pair
from binop.packing import word_count

HALF_DTYPES = (torch.float16, torch.bfloat16)
FLOAT_DTYPES = (*HALF_DTYPES, torch.float32, torch.float64)
SIGN_DTYPES = (*FLOAT_DTYPES, torch.int8)


def require(
    condition: bool, message: Callable[[], str], error: type[Exception] = ValueError
) -> None:
    """Raises ``error(message())`` unless ``condition`` holds. A SymBool becomes a guard, or a
    run-time assertion where the size is data-dependent."""
    if isinstance(condition, bool):
        if not condition:
            raise error(message())
    else:
        torch._check_with(error, condition, message)


def text(op: str, argument: str, wanted: str, got: object) -> str:
    return f"{op}: {argument}: expected {wanted}, got {got}"


def _names(dtypes: Sequence[torch.dtype]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def require_rank(op: str, argument: str, tensor: Tensor, layout: str) -> None:
    wanted = layout.count(",") + 1
    require(
        tensor.ndim == wanted,
        lambda: text(op, argument, f"a {wanted}-d tensor {layout}", f"shape {tuple(tensor.shape)}"),
    )


def require_dtype(op: str, argument: str, tensor: Tensor, wanted: Sequence[torch.dtype]) -> None:
    require(
        tensor.dtype in wanted and tensor.layout is torch.strided,
        lambda: text(
            op, argument, f"a dense {_names(wanted)} tensor", f"{tensor.dtype}, {tensor.layout}"
        ),
        TypeError,
    )


def require_one_of(
    op: str, argument: str, dtype: torch.dtype, wanted: Sequence[torch.dtype]
) -> None:
    require(
        dtype in wanted, lambda: text(op, argument, f"one of {_names(wanted)}", dtype), TypeError
    )


def require_float64_on_cpu(
    op: str, argument: str, dtype: torch.dtype, device: torch.device
) -> None:
    require(
        dtype is not torch.float64 or device.type in ("cpu", "meta"),
        lambda: text(
            op, argument, "float64 on the CPU only", f"torch.float64 on {device}; use float32"
        ),
        TypeError,
    )


def require_same_device(op: str, x: Tensor, **others: Tensor | None) -> None:
    for argument, tensor in others.items():
        if tensor is not None and tensor.device != x.device:
            raise RuntimeError(text(op, argument, f"the device of x, {x.device}", tensor.device))


def require_pair(op: str, argument: str, values: Sequence[int], least: int) -> Pair:
    require(len(values) == 2, lambda: text(op, argument, "2 values (height, width)", list(values)))
    for value in values:
        require(
            value >= least, lambda: text(op, argument, f"values of at least {least}", list(values))
        )
    return values[0], values[1]


def require_one_element(op: str, argument: str, tensor: Tensor) -> None:
    require(
        tensor.ndim <= 1 and tensor.numel() == 1,
        lambda: text(op, argument, "1 element (0-d or [1])", f"shape {tuple(tensor.shape)}"),
    )


def require_one_or_per_channel(op: str, argument: str, tensor: Tensor, out_channels: int) -> None:
    require(
        tensor.ndim <= 1 and (tensor.numel() == 1 or tensor.numel() == out_channels),
        lambda: text(
            op,
            argument,
            f"1 element (0-d or [1]) or [{out_channels}]",
            f"shape {tuple(tensor.shape)}",
        ),
    )


def require_per_channel(op: str, argument: str, tensor: Tensor, out_channels: int) -> None:
    require(
        tensor.ndim == 1 and tensor.shape[0] == out_channels,
        lambda: text(op, argument, f"shape [{out_channels}]", f"shape {tuple(tensor.shape)}"),
    )


def require_shape(op: str, argument: str, tensor: Tensor, shape: Sequence[int]) -> None:
    # Sizes one by one: each may be symbolic.
    matches = tensor.ndim == len(shape)
    require(matches, lambda: text(op, argument, f"shape {tuple(shape)}", tuple(tensor.shape)))
    for size, wanted in zip(tensor.shape, shape, strict=True):
        require(
            size == wanted,
            lambda: text(op, argument, f"shape {tuple(shape)}", tuple(tensor.shape)),
        )


def require_clip(op: str, clip: float) -> None:
    require(
        not math.isnan(clip) and clip >= 0, lambda: text(op, "clip", "a number >= 0 or inf", clip)
    )


def require_packed(op: str, argument: str, tensor: Tensor, layout: str, channels: int) -> None:
    require_rank(op, argument, tensor, layout)
    require_dtype(op, argument, tensor, (torch.int32,))
    require(
        tensor.shape[3] == word_count(channels),
        lambda: text(
            op,
            argument,
            f"{word_count(channels)} words in the last dimension for {channels} channels",
            f"{tensor.shape[3]} (shape {tuple(tensor.shape)})",
        ),
    )
