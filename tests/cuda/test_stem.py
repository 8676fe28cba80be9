"""``stem_conv2d`` and ``stem_conv2d_threshold`` in one kernel: its source on the CPU, and the ops
on a device.

Small integers make every sum exact, so that its order does not show and results are the
composition's to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest
import torch
from compare import assert_same_bits
from torch import Tensor

from binop._cuda.launches import Launch

_reference = torch.ops.binop


@dataclass(frozen=True)
class Stem:
    """A convolution of few channels."""

    name: str
    c: int
    o: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (20, 19)
    n: int = 1

    def tensors(
        self, dtype: torch.dtype, seed: int = 0, integers: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x, weight and bias."""
        generator = torch.Generator().manual_seed(seed)
        shapes = (self.n, self.c, *self.size), (self.o, self.c, *self.kernel), (self.o,)
        made = []
        for shape in shapes:
            if integers:
                t = torch.randint(-2, 3, shape, generator=generator).to(dtype)
            else:
                t = torch.randn(shape, generator=generator).to(dtype)
            made.append(t)
        return made[0], made[1], made[2]


STEMS = [
    Stem("imagenet", 3, 64, (7, 7), (2, 2), (3, 3), (37, 41), 2),
    Stem("vgg", 3, 128, (3, 3), (1, 1), (1, 1), (18, 33)),  # pixels at odd elements
    Stem("grey", 1, 8, (5, 5), (1, 1), (2, 2)),
    Stem("grey-strided", 1, 24, (3, 5), (3, 3), (1, 2)),
    Stem("two-channels", 2, 96, (5, 5), (2, 1), (0, 2)),
    Stem("four-channels", 4, 136, (7, 7), (1, 2), (3, 3), (17, 19)),  # part-filled words and tiles
    Stem("1x1", 3, 64, (1, 1), size=(5, 4), n=3),
    Stem("wide-padding", 3, 16, (3, 3), (1, 3), (5, 4), (6, 3)),
    Stem("even-kernel", 3, 40, (4, 2), (2, 1), (1, 0)),
    Stem("one-pixel", 4, 8, (3, 3), size=(3, 3)),
    Stem("wide-filters", 3, 1024, (7, 7), (2, 2), size=(9, 9)),  # blocks share the channels
]
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "sliced": lambda x: torch.cat([x, x], 3)[..., : x.shape[3]],
    "unaligned": lambda x: torch.cat([x.new_ones(1), x.flatten()])[1:].view(x.shape),
    "expanded": lambda x: x[:, :, :1].expand(x.shape),
}
every_stem = pytest.mark.parametrize("stem", STEMS, ids=lambda stem: stem.name)


def norms(stem: Stem, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    norm = torch.randn(4, stem.o, generator=generator)
    norm[2, ::3] = 0.0
    norm[3, 1::4] = -0.0
    return norm


def bounds(stem: Stem, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Half-open and closed intervals, empty ones, all values, and single ones."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randint(-9, 9, (stem.o,), generator=generator).float()
    low += torch.tensor([0.0, 0.25, 1e-6])[torch.arange(stem.o) % 3]
    high = low + 6
    infinity = float("inf")
    high[::2] = infinity
    low[3::4] = -infinity
    low[4::16], high[4::16] = -infinity, infinity
    high[5::16] = low[5::16]
    high[1::16] = -infinity
    low[6::16] = infinity
    low[8::16] = float("nan")
    high[9::16] = float("nan")
    high[10::16] = low[10::16] - 1
    low[2::16] = -0.0
    high[7::16] = 0.0
    return low, high


def options(stem: Stem) -> tuple[list[int], list[int]]:
    return list(stem.stride), list(stem.padding)


def assert_same(got: Tensor, wanted: Tensor) -> None:
    # A NaN's own bits are the processor's choice.
    assert torch.equal(got.isnan().cpu(), wanted.isnan())
    assert_same_bits(got.nan_to_num(0.5), wanted.nan_to_num(0.5))
    assert got.is_contiguous(memory_format=torch.channels_last)


def calls(stem: Stem, x: Tensor, weight: Tensor, bias: Tensor) -> list[tuple[str, tuple[Any, ...]]]:
    """Every output that the kernel has, by op and arguments."""
    rest = options(stem)
    low, high = bounds(stem)
    only_low = torch.full_like(high, float("inf"))
    return [
        ("stem_conv2d", (x, weight, None, None, False, *rest)),
        ("stem_conv2d", (x, weight, bias, norms(stem), False, *rest)),
        ("stem_conv2d", (x, weight, None, norms(stem), True, *rest)),
        ("stem_conv2d", (x, weight, bias, None, True, *rest)),
        ("stem_conv2d_threshold", (x, weight, None, low, high, *rest)),
        ("stem_conv2d_threshold", (x, weight, bias, low, only_low, *rest)),
    ]


def check(got: Tensor, name: str, arguments: tuple[Any, ...]) -> None:
    wanted = getattr(_reference, name)(*arguments)
    if wanted.dtype is torch.int32:
        assert_same_bits(got, wanted)
    else:
        assert_same(got, wanted)


@every_stem
def test_emulated(hopper: ModuleType, launched: list[Launch], stem: Stem) -> None:
    first = STEMS.index(stem)
    dtype = (torch.bfloat16, torch.float16)[first % 2]
    x, weight, bias = stem.tensors(dtype)
    x = list(LAYOUTS.values())[first % len(LAYOUTS)](x)
    chosen = calls(stem, x, weight, bias)
    # A second to compile each adds up; the first two see all.
    for name, arguments in chosen if first < 2 else [chosen[1 + first % 3], chosen[4 + first % 2]]:
        check(getattr(hopper, name)(*arguments), name, arguments)
    assert {launch.kernel.source for launch in launched} == {"stem.cu"}


@every_stem
def test_narrow_products_emulated(ampere: ModuleType, launched: list[Launch], stem: Stem) -> None:
    """What GPUs other than Hopper run: of each stem one output."""
    x, weight, bias = stem.tensors(torch.float16)
    name, arguments = calls(stem, x, weight, bias)[STEMS.index(stem) % 6]
    check(getattr(ampere, name)(*arguments), name, arguments)
    assert {dict(launch.kernel.macros)["WIDE"] for launch in launched} == {0}


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_a_window_does_not_see_does_not_count_emulated(
    hopper: ModuleType, value: float
) -> None:
    """A row's last pair is filled up with the next pixel's value, which may be anything."""
    for seed, stem in enumerate(STEMS[:5]):
        x, weight, bias = stem.tensors((torch.float16, torch.bfloat16)[seed % 2])
        x.flatten()[seed::37] = value
        name, arguments = calls(stem, x, weight, bias)[4 * (seed % 2)]
        check(getattr(hopper, name)(*arguments), name, arguments)
        y = _reference.stem_conv2d(x, weight, None, None, False, *options(stem))
        assert 0 < y.isfinite().sum() < y.numel()


# Both sum in float32, in different orders: relative to the sum of absolute products, each is wrong
# by at most (taps - 1) * 2**-24, so that the difference of rounded values stays below two units in
# the last place and that.
def _tolerance(stem: Stem, x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    sizes = _reference.stem_conv2d(x.abs(), weight.abs(), None, None, False, *options(stem)).float()
    taps = stem.c * stem.kernel[0] * stem.kernel[1]
    return y.float().abs() * torch.finfo(y.dtype).eps + sizes * taps * 2.0**-22


@every_stem
def test_random_values_emulated(hopper: ModuleType, stem: Stem) -> None:
    _check_random(hopper, stem, torch.bfloat16, "cpu")


def _check_random(ops: Any, stem: Stem, dtype: torch.dtype, device: str) -> None:
    x, weight, _ = stem.tensors(dtype, integers=False)
    arguments = (None, None, False, *options(stem))
    got = ops.stem_conv2d(x.to(device), weight.to(device), *arguments).cpu()
    wanted = _reference.stem_conv2d(x, weight, *arguments)
    difference = (got.float() - wanted.float()).abs()
    assert bool((difference <= _tolerance(stem, x, weight, wanted)).all())
    assert float((difference > 0).float().mean()) < 0.05


def test_what_the_kernel_leaves_to_the_composition(
    hopper: ModuleType, launched: list[Launch]
) -> None:
    stem = STEMS[0]
    for other in (replace(stem, o=60), replace(stem, c=5), replace(stem, kernel=(9, 9))):
        x, weight, bias = other.tensors(torch.bfloat16)
        for name, arguments in calls(other, x, weight, bias)[3:5]:
            assert getattr(hopper, name)(*arguments) is NotImplemented
    assert launched == []


def test_an_empty_batch_emulated(hopper: ModuleType, launched: list[Launch]) -> None:
    for name, arguments in calls(STEMS[0], *replace(STEMS[0], n=0).tensors(torch.bfloat16)):
        check(getattr(hopper, name)(*arguments), name, arguments)
    assert launched == []


def _on_cuda(arguments: tuple[Any, ...]) -> list[Any]:
    return [a.cuda() if isinstance(a, Tensor) else a for a in arguments]


@pytest.mark.cuda
@pytest.mark.timeout(300, method="thread")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
@every_stem
def test_on_a_device(stem: Stem, layout: str, dtype: torch.dtype) -> None:
    stem = replace(stem, n=5 * stem.n)
    x, weight, bias = stem.tensors(dtype)
    for name, arguments in calls(stem, LAYOUTS[layout](x), weight, bias):
        check(getattr(_reference, name)(*_on_cuda(arguments)), name, arguments)


@pytest.mark.cuda
@pytest.mark.sanitize
@pytest.mark.timeout(300, method="thread")
@every_stem
def test_every_output_on_a_device(stem: Stem) -> None:
    x, weight, bias = stem.tensors(torch.bfloat16)
    for name, arguments in calls(stem, x, weight, bias):
        check(getattr(_reference, name)(*_on_cuda(arguments)), name, arguments)


@pytest.mark.cuda
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_a_window_does_not_see_does_not_count_on_a_device(value: float) -> None:
    for seed, stem in enumerate(STEMS):
        x, weight, bias = stem.tensors(torch.bfloat16)
        x.flatten()[seed::37] = value
        for name, arguments in calls(stem, x, weight, bias):
            check(getattr(_reference, name)(*_on_cuda(arguments)), name, arguments)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_stem
def test_random_values_on_a_device(stem: Stem, dtype: torch.dtype) -> None:
    _check_random(_reference, replace(stem, n=8, size=(61, 67)), dtype, "cuda")


@pytest.mark.cuda
def test_one_launch_on_a_device() -> None:
    for name, arguments in calls(STEMS[0], *STEMS[0].tensors(torch.bfloat16)):
        op, arguments = getattr(_reference, name), _on_cuda(arguments)
        op(*arguments)
        torch.cuda.synchronize()
        # Without acc_events torch 2.11 warns that events are those of one cycle.
        cuda = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=cuda, acc_events=True) as profiler:
            op(*arguments)
            torch.cuda.synchronize()
        kernels = [e.key for e in profiler.key_averages() if e.self_device_time_total > 0]
        assert (kernels == ["stem"]) == (torch.cuda.get_device_capability() >= (8, 0))
