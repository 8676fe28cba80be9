"""Hypothesis: any geometry, against the simulated float convolution."""

from __future__ import annotations

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

ops = torch.ops.binop
small = st.integers(1, 4)


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, object]:
    groups = draw(st.integers(1, 3))
    depth = draw(st.sampled_from([1, 2, 7, 31, 32, 33, 64, 65]))
    kernel = draw(st.tuples(small, small))
    dilation = draw(st.tuples(small, small))
    padding = draw(st.tuples(st.integers(0, 5), st.integers(0, 5)))
    size = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    for axis in range(2):
        assume(size[axis] + 2 * padding[axis] >= dilation[axis] * (kernel[axis] - 1) + 1)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, outputs = draw(st.integers(0, 3)), groups * draw(small)
    return {
        "x": torch.randn(batch, groups * depth, *size, generator=generator),
        "weight": torch.randn(outputs, depth, *kernel, generator=generator),
        "scale": torch.randn(outputs, generator=generator),
        "pad_value": draw(st.sampled_from([-1, 0, 1])),
        "options": {
            "stride": draw(st.tuples(small, small)),
            "dilation": dilation,
            "groups": groups,
        },
        "padding": padding,
    }


@settings(max_examples=150, deadline=None)
@given(conv=convolutions())
def test_any_geometry(conv: dict[str, object]) -> None:
    x, weight, scale = conv["x"], conv["weight"], conv["scale"]
    options, pad_value, (rows, columns) = conv["options"], conv["pad_value"], conv["padding"]
    xh, wh = torch.where(x >= 0, 1.0, -1.0), torch.where(weight >= 0, 1.0, -1.0)
    padded = F.pad(xh, (columns, columns, rows, rows), value=float(pad_value))
    # float64: exact by any algorithm, then one float32 product.
    dots = F.conv2d(padded.double(), wh.double(), **options).float()
    wanted = scale.reshape(1, -1, 1, 1) * dots
    settings_ = {**options, "padding": (rows, columns), "pad_value": pad_value}
    assert torch.equal(ops.binary_conv2d(x, weight, torch.ones(()), scale, **settings_), wanted)
    depth = weight.shape[1]
    if options["groups"] == 1 or depth % 32 == 0:
        packed = (ops.pack(x), ops.pack(weight), x.shape[1])
        assert torch.equal(ops.binary_conv2d_packed(*packed, scale, **settings_), wanted)
        zeros = torch.zeros(len(scale), dtype=torch.int32)
        bits = ops.binary_conv2d_threshold(*packed, zeros, zeros > 0, **settings_)
        signs = ops.unpack(bits, len(scale), torch.float32)
        assert torch.equal(signs, torch.where(dots >= 0, 1.0, -1.0))


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(0, 100), st.integers(0, 5), st.integers(0, 5)),
    seed=st.integers(0, 2**31),
)
def test_pack_and_unpack_are_inverse(shape: tuple[int, ...], seed: int) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    packed = ops.pack(x)
    signs = ops.unpack(packed, shape[1], torch.int8)
    assert torch.equal(signs, torch.where(x >= 0, 1, -1).to(torch.int8))
    assert torch.equal(ops.pack(signs), packed)
