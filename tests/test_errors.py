"""Every bad argument raises, naming it, what was wanted and what came; the same text everywhere:
in eager, on FakeTensors, and through the functional wrapper."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import binop

ops = torch.ops.binop

CONV = {"x": torch.ones(2, 8, 5, 5), "weight": torch.ones(4, 8, 3, 3)}
CONV |= {"scale_a": torch.ones(()), "scale_w": torch.ones(4)}
PACKED = {
    "x": torch.ones(2, 5, 5, 2, dtype=torch.int32),
    "weight": torch.ones(4, 3, 3, 2, dtype=torch.int32),
    "channels": 64,
}
SCALED = {**PACKED, "scale": torch.ones(4)}
THRESHOLD = {
    **PACKED,
    "threshold": torch.zeros(4, dtype=torch.int32),
    "flip": torch.zeros(4, dtype=torch.bool),
}
RESIDUAL = {**PACKED, "scale": torch.ones(4), "norm": torch.ones(4, 4)}
RESIDUAL |= {"residual": torch.ones(2, 4, 3, 3), "activation": torch.ones(3, 4)}
RESIDUAL |= {"shift": torch.ones(4), "relu": False, "stride": [1, 1], "padding": [0, 0]}
RESIDUAL |= {"dilation": [1, 1], "groups": 1, "pad_value": 0}
STEM = {"x": torch.ones(2, 3, 5, 5).half(), "weight": torch.ones(4, 3, 3, 3).half()}
STEM |= {"bias": torch.ones(4).half(), "stride": [1, 1], "padding": [0, 0]}
STEM_FLOAT = {**STEM, "norm": torch.ones(4, 4), "relu": False}
STEM_BITS = {**STEM, "low": torch.ones(4), "high": torch.ones(4)}
PACK = {"x": torch.ones(2, 8, 5, 5)}
MASK = {**PACK, "scale_a": torch.ones(()), "clip": 1.0}
UNPACK = {"packed": torch.ones(2, 5, 5, 2, dtype=torch.int32), "channels": 40}
UNPACK |= {"dtype": torch.float32}

# op, valid arguments, the bad ones, error type, pattern (after the argument's name).
Row = tuple[str, dict[str, Any], dict[str, Any], type[Exception], str]


def _of_convolutions(op: str, valid: dict[str, Any]) -> list[Row]:
    """What every convolution refuses alike."""
    return [
        (op, valid, {"stride": [0, 1]}, ValueError, r"stride: .*at least 1, got \[0, 1\]"),
        (op, valid, {"stride": [1]}, ValueError, r"stride: .*2 values .*got \[1\]"),
        (op, valid, {"stride": [1, 1, 1]}, ValueError, r"stride: .*2 values .*got \[1, 1, 1\]"),
        (op, valid, {"padding": [0, -1]}, ValueError, r"padding: .*at least 0, got \[0, -1\]"),
        (op, valid, {"dilation": [1, 0]}, ValueError, r"dilation: .*at least 1, got \[1, 0\]"),
        (op, valid, {"groups": 0}, ValueError, r"groups: .*at least 1, got 0"),
        (op, valid, {"groups": -1}, ValueError, r"groups: .*at least 1, got -1"),
        (op, valid, {"groups": 3}, ValueError, r"groups: .*divisor of .* got 3"),
        (op, valid, {"pad_value": 2}, ValueError, r"pad_value: .*-1, 0 or 1, got 2"),
        (
            op,
            valid,
            {"dilation": [3, 1]},
            ValueError,
            r"x: .*no smaller than the kernel .*\(5, 5\)",
        ),
    ]


ROWS: list[Row] = [
    *_of_convolutions("binary_conv2d", CONV),
    *_of_convolutions("binary_conv2d_packed", SCALED),
    *_of_convolutions("binary_conv2d_threshold", THRESHOLD),
    *_of_convolutions("binary_conv2d_residual", RESIDUAL),
    *[
        ("binary_conv2d", CONV, bad, error, pattern)
        for bad, error, pattern in [
            ({"x": torch.ones(8, 5, 5)}, ValueError, r"x: .*4-d .*\(8, 5, 5\)"),
            ({"x": torch.ones(2, 8, 5, 5, dtype=torch.int32)}, TypeError, r"x: .*float16.*int32"),
            ({"x": torch.ones(2, 8, 5, 5, dtype=torch.complex64)}, TypeError, r"x: .*complex64"),
            ({"x": torch.ones(2, 8, 5, 5, dtype=torch.bool)}, TypeError, r"x: .*bool"),
            ({"x": torch.ones(2, 9, 5, 5)}, ValueError, r"weight: .*9 input channels.*got 8"),
            ({"x": torch.ones(2, 8, 0, 5)}, ValueError, r"x: .*at least 1"),
            ({"x": torch.ones(2, 8, 2, 5)}, ValueError, r"x: .*no smaller than the kernel"),
            ({"weight": torch.ones(4, 8, 9)}, ValueError, r"weight: .*4-d .*\(4, 8, 9\)"),
            ({"weight": torch.ones(4, 8, 3, 3, dtype=torch.int32)}, TypeError, r"weight: .*int8"),
            ({"weight": torch.ones(4, 8, 0, 3)}, ValueError, r"weight: .*at least 1"),
            ({"weight": torch.ones(0, 8, 3, 3)}, ValueError, r"weight: .*at least 1"),
            ({"weight": torch.ones(4, 4, 3, 3)}, ValueError, r"weight: .*8 input channels"),
            ({"scale_a": torch.ones(2)}, ValueError, r"scale_a: .*1 element.*\(2,\)"),
            ({"scale_a": torch.ones(1, 1)}, ValueError, r"scale_a: .*1 element.*\(1, 1\)"),
            ({"scale_a": torch.ones((), dtype=torch.int64)}, TypeError, r"scale_a: .*int64"),
            ({"scale_w": torch.ones(3)}, ValueError, r"scale_w: .*\[4\].*\(3,\)"),
            ({"scale_w": torch.ones(4, 1, 1, 1)}, ValueError, r"scale_w: .*\[4\]"),
            ({"scale_w": torch.ones(4, dtype=torch.int8)}, TypeError, r"scale_w: .*int8"),
            ({"clip": math.nan}, ValueError, r"clip: .*>= 0 or inf, got nan"),
            ({"clip": -0.5}, ValueError, r"clip: .*>= 0 or inf, got -0.5"),
            (
                {"x": torch.ones(1, 2**24, 1, 1), "weight": torch.ones(1, 2**24, 1, 1)},
                ValueError,
                r"weight: .*below 16777216 .*got 16777216",
            ),
        ]
    ],
    *[
        (op, valid, bad, error, pattern)
        for op, valid in (("binary_conv2d_packed", SCALED), ("binary_conv2d_threshold", THRESHOLD))
        for bad, error, pattern in [
            ({"x": torch.ones(2, 5, 5, 2)}, TypeError, r"x: .*int32.*float32"),
            ({"x": torch.ones(5, 5, 2).int()}, ValueError, r"x: .*4-d"),
            ({"channels": 65}, ValueError, r"x: .*3 words.*65 channels.*got 2"),
            ({"channels": 32}, ValueError, r"x: .*1 words.*32 channels.*got 2"),
            ({"channels": 0}, ValueError, r"channels: .*at least 1, got 0"),
            ({"weight": torch.ones(4, 3, 3, 3).int()}, ValueError, r"weight: .*2 words.*got 3"),
            ({"weight": torch.ones(4, 3, 3, 2).long()}, TypeError, r"weight: .*int32.*int64"),
            (
                {"channels": 48, "groups": 2, "weight": torch.ones(4, 3, 3, 1).int()},
                ValueError,
                r"channels: .*multiple of 32 per group.*24",
            ),
        ]
    ],
    *[
        ("binary_conv2d_packed", SCALED, bad, error, pattern)
        for bad, error, pattern in [
            ({"scale": torch.ones(3)}, ValueError, r"scale: .*\[4\].*\(3,\)"),
            ({"scale": torch.ones(4).half()}, TypeError, r"scale: .*float32.*float16"),
            ({"bias": torch.ones(1)}, ValueError, r"bias: .*\[4\].*\(1,\)"),
            ({"bias": torch.ones(4).int()}, TypeError, r"bias: .*float32.*int32"),
            ({"out_dtype": torch.int32}, TypeError, r"out_dtype: .*float16.*int32"),
        ]
    ],
    *[
        ("binary_conv2d_threshold", THRESHOLD, bad, error, pattern)
        for bad, error, pattern in [
            ({"threshold": torch.ones(4)}, TypeError, r"threshold: .*int32.*float32"),
            ({"threshold": torch.ones(1).int()}, ValueError, r"threshold: .*\[4\].*\(1,\)"),
            ({"flip": torch.ones(4).int()}, TypeError, r"flip: .*bool.*int32"),
            ({"flip": torch.ones(5).bool()}, ValueError, r"flip: .*\[4\].*\(5,\)"),
        ]
    ],
    *[
        ("binary_conv2d_residual", RESIDUAL, bad, error, pattern)
        for bad, error, pattern in [
            ({"scale": torch.ones(3)}, ValueError, r"scale: .*\[4\].*\(3,\)"),
            ({"norm": torch.ones(3, 4)}, ValueError, r"norm: .*\(4, 4\), got \(3, 4\)"),
            ({"norm": torch.ones(4)}, ValueError, r"norm: .*\(4, 4\), got \(4,\)"),
            ({"residual": torch.ones(2, 4, 3, 4)}, ValueError, r"residual: .*\(2, 4, 3, 3\)"),
            ({"residual": torch.ones(2, 4, 3, 3).int()}, TypeError, r"residual: .*float16.*int32"),
            ({"activation": torch.ones(3, 5)}, ValueError, r"activation: .*\(3, 4\), got \(3, 5\)"),
            ({"shift": torch.ones(4).half()}, TypeError, r"shift: .*float32.*float16"),
            ({"channels": 65}, ValueError, r"x: .*3 words.*65 channels.*got 2"),
        ]
    ],
    *[
        (op, valid, bad, error, pattern)
        for op, valid in (("stem_conv2d", STEM_FLOAT), ("stem_conv2d_threshold", STEM_BITS))
        for bad, error, pattern in [
            ({"x": torch.ones(2, 3, 5, 5)}, TypeError, r"x: .*float16, .*bfloat16.*float32"),
            ({"x": torch.ones(3, 5, 5).half()}, ValueError, r"x: .*4-d .*\(3, 5, 5\)"),
            ({"x": torch.ones(2, 3, 2, 5).half()}, ValueError, r"x: .*no smaller than the kernel"),
            ({"weight": torch.ones(4, 3, 3, 3)}, TypeError, r"weight: .*float16.*float32"),
            ({"weight": torch.ones(4, 2, 3, 3).half()}, ValueError, r"weight: .*3 input .*got 2"),
            ({"bias": torch.ones(4)}, TypeError, r"bias: .*float16.*float32"),
            ({"bias": torch.ones(1).half()}, ValueError, r"bias: .*\[4\].*\(1,\)"),
            ({"stride": [0, 1]}, ValueError, r"stride: .*at least 1, got \[0, 1\]"),
            ({"padding": [0, -1]}, ValueError, r"padding: .*at least 0, got \[0, -1\]"),
        ]
    ],
    ("stem_conv2d", STEM_FLOAT, {"norm": torch.ones(4)}, ValueError, r"norm: .*\(4, 4\).*\(4,\)"),
    ("stem_conv2d_threshold", STEM_BITS, {"low": torch.ones(3)}, ValueError, r"low: .*\[4\]"),
    ("stem_conv2d_threshold", STEM_BITS, {"high": torch.ones(4).half()}, TypeError, r"high: "),
    ("pack", PACK, {"x": torch.ones(8, 5, 5)}, ValueError, r"x: .*4-d .*\(8, 5, 5\)"),
    ("pack", PACK, {"x": torch.ones(2, 8, 5, 5).int()}, TypeError, r"x: .*int8.*int32"),
    ("pack_with_mask", MASK, {"scale_a": torch.ones(2)}, ValueError, r"scale_a: .*1 element"),
    ("pack_with_mask", MASK, {"clip": -1.0}, ValueError, r"clip: .*got -1.0"),
    ("unpack", UNPACK, {"packed": torch.ones(2, 5, 5, 2)}, TypeError, r"packed: .*int32.*float32"),
    ("unpack", UNPACK, {"channels": 32}, ValueError, r"packed: .*1 words.*got 2"),
    ("unpack", UNPACK, {"channels": -1}, ValueError, r"channels: .*at least 0, got -1"),
    ("unpack", UNPACK, {"dtype": torch.int32}, TypeError, r"dtype: .*float16.*int32"),
]


def _call(op: str, arguments: dict[str, Any]) -> None:
    getattr(ops, op)(**arguments)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{'-'.join(row[2])}")
def test_bad_arguments(row: Row) -> None:
    op, valid, bad, error, pattern = row
    arguments = {**valid, **bad}
    with pytest.raises(error, match=f"{op}: {pattern}") as eager:
        _call(op, arguments)
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        fakes = {
            name: mode.from_tensor(value) if isinstance(value, torch.Tensor) else value
            for name, value in arguments.items()
        }
        with pytest.raises(error) as faked:
            _call(op, fakes)
    assert str(faked.value) == str(eager.value)
    if op == "binary_conv2d":
        with pytest.raises(error, match=re.escape(str(eager.value))):
            binop.functional.binary_conv2d(**arguments)


@pytest.mark.parametrize(
    ("op", "valid"),
    [
        ("binary_conv2d", CONV),
        ("binary_conv2d_packed", SCALED),
        ("binary_conv2d_threshold", THRESHOLD),
        ("binary_conv2d_residual", RESIDUAL),
        ("pack_with_mask", MASK),
        ("stem_conv2d", STEM_FLOAT),
        ("stem_conv2d_threshold", STEM_BITS),
    ],
)
def test_device_mix(op: str, valid: dict[str, Any]) -> None:
    """On meta tensors: every tensor but x on another device, one at a time."""
    for name, value in valid.items():
        if name != "x" and isinstance(value, torch.Tensor):
            mixed = {
                k: v.to("meta") if isinstance(v, torch.Tensor) and k != name else v
                for k, v in valid.items()
            }
            with pytest.raises(RuntimeError, match=f"{op}: {name}: .*device of x, meta, got cpu"):
                _call(op, mixed)


def test_float64_belongs_to_the_cpu() -> None:
    with FakeTensorMode():
        x = torch.empty(1, 8, 5, 5, device="cuda", dtype=torch.float64)
        weight, one = torch.empty(4, 8, 3, 3, device="cuda"), torch.empty((), device="cuda")
        with pytest.raises(TypeError, match=r"x: expected float64 on the CPU only"):
            ops.binary_conv2d(x, weight, one, one)
        with pytest.raises(TypeError, match=r"x: expected float64 on the CPU only"):
            ops.pack(x)


@pytest.mark.parametrize("padding", ["sam", "same"])
def test_string_padding(padding: str) -> None:
    x, weight = CONV["x"], CONV["weight"]
    wanted = "'same' or 'valid', got 'sam'" if padding == "sam" else r"stride of 1, got \(2, 2\)"
    with pytest.raises(ValueError, match=f"padding.*{wanted}"):
        binop.functional.binary_conv2d(x, weight, stride=2, padding=padding)


def test_sparse_input() -> None:
    with pytest.raises((TypeError, NotImplementedError), match=r"(?i)sparse"):
        _call("pack", {"x": torch.ones(1, 8, 2, 2).to_sparse()})


@pytest.mark.compile
def test_the_compiler_shows_the_same_text() -> None:
    compiled = torch.compile(lambda x, w: ops.binary_conv2d(x, w, CONV["scale_a"], torch.ones(3)))
    with pytest.raises(
        RuntimeError, match=r"scale_w: expected 1 element \(0-d or \[1\]\) or \[4\]"
    ):
        compiled(CONV["x"], CONV["weight"])
