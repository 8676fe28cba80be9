"""Residual sums on every path of the CPU library against the composition of the other ops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import CASES, Case, can_pack, sprinkle
from compare import assert_same_bits
from configurations import TILED, packed_operands
from torch import Tensor

from binop import backends, residual

pytestmark = pytest.mark.usefixtures("cpu_path")

op = torch.ops.binop.binary_conv2d_residual
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
LAYOUTS = ("last", "contiguous", "strided", "expanded")
# Whether there are a ReLU, an activation and a shift.
STEPS = [(bool(n & 1), bool(n & 2), bool(n & 4)) for n in range(8)]

# Beside the tables: blocks that share words of bits, blocks and vectors that are part-filled.
SHAPES = [
    *TILED,
    *(case for case in CASES if case.n > 0),
    Case("groups-over-words", 128, 132, h=5, w=6, n=2, groups=2),
    Case("wide-block", 32, 200, h=5, w=5, n=2),
    Case("part-vector", 64, 17, h=6, w=9),
    Case("one-output", 64, 1, h=9, w=9, n=2),
]


def laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == "last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        wide = torch.zeros(x.shape[0], 2 * x.shape[1], x.shape[2], x.shape[3] + 3, dtype=x.dtype)
        wide[:, ::2, :, 3:] = x
        return wide[:, ::2, :, 3:]
    return x[:, :1, :, :1].expand_as(x) if layout == "expanded" else x


def operands(
    case: Case, dtype: torch.dtype, steps: tuple[bool, bool, bool], layout: str, special: bool
) -> list[Any]:
    if not can_pack(case):
        case = Case(**{**vars(case), "c": 32 * case.groups})
    x, weight = packed_operands(case)
    relu, activated, shifted = steps
    options = [list(v) if isinstance(v, tuple) else v for v in case.options.values()]
    scale, norm = torch.randn(case.o), torch.randn(4, case.o)
    y = torch.ops.binop.binary_conv2d_packed.explicit(
        x, weight, case.c, scale, None, *options, dtype
    )
    values = torch.randn(y.shape).to(dtype)
    activation = torch.randn(3, case.o) if activated else None
    shift = torch.randn(case.o) if shifted else None
    if special:
        generator = torch.Generator().manual_seed(3)
        for tensor in (values, scale, norm, activation, shift):
            if tensor is not None:
                sprinkle(tensor, generator)
    args = [scale, norm, laid_out(values, layout), activation, shift, relu]
    return [x, weight, case.c, *args, *options]


def assert_composed(args: list[Any]) -> None:
    y, signs = op(*args)
    with residual.composed():
        wanted, words = op(*args)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_same_bits(signs, words)
    # Which NaN a sum of two is, nothing says.
    assert torch.equal(y.isnan(), wanted.isnan())
    assert_same_bits(without_nan(y), without_nan(wanted))


def without_nan(y: Tensor) -> Tensor:
    return y.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("case", SHAPES, ids=lambda case: f"{case.name}-{case.c}")
def test_shapes(case: Case, special: bool) -> None:
    seed = SHAPES.index(case)
    for turn, dtype in enumerate(FLOATS):
        steps, layout = STEPS[(seed + 3 * turn) % 8], LAYOUTS[(seed + turn) % 4]
        assert_composed(operands(case, dtype, steps, layout, special))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_steps_and_layouts(dtype: torch.dtype, steps: tuple[bool, bool, bool], layout: str) -> None:
    for outputs in (64, 41):  # whole vectors, and a rest
        case = Case("", 64, outputs, h=7, w=6, n=2)
        assert_composed(operands(case, dtype, steps, layout, special=True))


def test_sums_that_round_to_zero() -> None:
    """In 16 bits a small negative sum becomes -0.0, whose sign is +1; in float32 it stays."""
    x, weight = packed_operands(Case("", 32, 40, kernel=(1, 1), padding=(0, 0)))
    norm = torch.zeros(4, 40)
    norm[3] = -1e-45
    for dtype, sign in ((torch.float32, 0), (torch.bfloat16, -1), (torch.float16, -1)):
        zeros = torch.zeros(1, 40, 5, 5, dtype=dtype)
        args = [x, weight, 32, torch.ones(1), norm, zeros, None, None, False]
        args += [[1, 1], [0, 0], [1, 1], 1, 0]
        assert_composed(args)
        y, signs = op(*args)
        assert bool((y <= 0).all())
        assert signs[..., 0].unique().tolist() == [sign]


@pytest.mark.parametrize("slope", [0.5, torch.inf])  # infinity: a NaN of the zero that is no more
def test_zeros_of_either_sign(slope: float) -> None:
    """ReLU keeps -0.0, and an activation multiplies a zero by its slope."""
    x, weight = packed_operands(Case("", 32, 72, kernel=(1, 1), padding=(0, 0)))
    norm = torch.tensor([0.0, 1.0, 1.0, -0.0]).reshape(4, 1).repeat(1, 72)
    activation = torch.tensor([-0.0, slope, -0.0]).reshape(3, 1).repeat(1, 72)
    residual = torch.full((1, 72, 5, 5), -0.0)
    for after in (None, activation):
        args = [x, weight, 32, torch.full((1,), -0.0), norm, residual, after, None, True]
        assert_composed([*args, [1, 1], [0, 0], [1, 1], 1, 0])


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("groups", [1, 2])  # of two groups of 50, blocks share words
@pytest.mark.usefixtures("threads")
def test_on_threads(groups: int) -> None:
    case = Case("", 64, 100, h=40, w=40, n=3, groups=groups)
    assert_composed(operands(case, torch.float32, (True, True, True), "last", special=False))


def test_a_weight_that_was_written_to() -> None:
    args = operands(Case("", 64, 40, h=6, w=6), torch.float32, STEPS[0], "last", special=False)
    before = op(*args)
    args[1].numpy()[:] = ~args[1].numpy()
    assert not torch.equal(op(*args)[0], before[0])
    assert_composed(args)


def test_operands_that_are_not_contiguous() -> None:
    args = operands(Case("", 64, 40, h=6, w=6), torch.float32, STEPS[7], "last", special=False)
    args[4] = args[4].t().contiguous().t()
    args[6] = args[6].t().contiguous().t()
    args[7] = torch.stack([args[7], args[7] + 1], 1).flatten()[::2]
    args[3] = args[3][:1].expand(40)
    assert_composed(args)


def test_an_empty_batch() -> None:
    args = operands(Case("", 64, 40), torch.half, STEPS[7], "last", special=False)
    args[0], args[5] = args[0][:0], args[5][:0]
    y, signs = op(*args)
    assert y.shape == (0, 40, 5, 5)
    assert signs.shape == (0, 5, 5, 2)


def test_one_call_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    args = operands(Case("", 64, 40), torch.float32, STEPS[7], "contiguous", special=False)
    for name in ("pack", "binary_conv2d_packed"):
        fail = lambda *_, name=name: pytest.fail(f"called {name}")  # noqa: E731
        monkeypatch.setitem(backends._cpu_functions, name, fail)
    op(*args)
    assert residual.obstacle(args[0], args[1], 64, torch.float32, *args[9:]) is None
