"""``pack`` written out in ATen ops: the same words, through torch and through Inductor."""

from __future__ import annotations

import pytest
import torch
from cases import specials
from harness import rewrite
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor import metrics

from binop.inductor import fuse_pack
from binop.inductor.passes import BinopPass

pytestmark = pytest.mark.compile
ops = torch.ops.binop
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def _everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CPUs it is not the default."""
    monkeypatch.setattr(fuse_pack, "DEVICES", {"cpu", "cuda"})


def images(channels: int, dtype: torch.dtype, last: bool = False) -> Tensor:
    """Random numbers with every special value in every channel."""
    x = torch.randn(3, channels, 5, 7).to(dtype)
    values = specials(dtype)
    x.view(3, channels, -1)[..., : len(values)] = values
    x.view(3, channels, -1)[1, :, : len(values)] = values.flip(0)
    return x.contiguous(memory_format=torch.channels_last) if last else x


@pytest.mark.parametrize("channels", [1, 31, 32, 33, 100, 128])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_special_value(channels: int, dtype: torch.dtype) -> None:
    x = images(channels, dtype)
    got = rewrite(lambda x: ops.pack(-x), x)
    assert torch.equal(got.output, ops.pack(-x))
    assert got.counts["pack in the pointwise kernel"] == 1


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_through_inductor(last: bool, dtype: torch.dtype, device: str) -> None:
    """One kernel makes floats and bits; negation is exact, so that only the bits can differ."""

    def call(x: Tensor) -> tuple[Tensor, Tensor]:
        y = -x
        return y, ops.pack(y)

    with torch.no_grad():
        compiled = torch.compile(call, backend="binop", fullgraph=True, dynamic=False)
        for channels in (33, 64):
            x = images(channels, dtype, last).to(device)
            floats, words = compiled(x)
            assert torch.equal(words, ops.pack(-x))
            assert torch.equal(floats.isnan(), x.isnan())
    assert counters["binop"]["pack in the pointwise kernel"] == 2


@pytest.mark.cuda
def test_one_kernel_makes_both() -> None:
    """Why packs are written out on CUDA. (Of C++, a function of two loops counts as one or two.)

    The sum comes before the product: of ``x * 0.5 + y`` Triton makes a fused multiply-add, which
    rounds half of the least subnormal plus that subnormal up, where eager adds zero to it.
    """

    def call(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        total = (x + y) * 0.5
        return total, ops.pack(total)

    tensors = [images(64, torch.float32, last=True).cuda() for _ in range(2)]
    metrics.reset()
    with torch.no_grad():
        compiled = torch.compile(call, backend="binop", fullgraph=True)
        for a, b in zip(compiled(*tensors), call(*tensors), strict=True):
            assert torch.equal(a.nan_to_num(), b.nan_to_num())
    assert metrics.generated_kernel_count == 1


def test_dynamic_shapes() -> None:
    with torch.no_grad():
        compiled = torch.compile(
            lambda x: ops.pack(-x), backend="binop", fullgraph=True, dynamic=True
        )
        for sizes in ((2, 33, 5, 7), (3, 33, 9, 2)):
            x = torch.randn(sizes)
            torch._dynamo.mark_static(x, 1)
            assert torch.equal(compiled(x), ops.pack(-x))
    assert counters["binop"]["pack in the pointwise kernel"] == 1


def test_flush_to_zero_changes_nothing() -> None:
    x = images(33, torch.float32)
    wanted = ops.pack(-x)
    with torch.no_grad():
        compiled = torch.compile(lambda x: ops.pack(-x), backend="binop", fullgraph=True)
        if not torch.set_flush_denormal(True):
            pytest.fail("this machine cannot flush subnormals")
        try:
            got = compiled(x)
        finally:
            torch.set_flush_denormal(False)
    assert torch.equal(got, wanted)


def test_what_is_in_memory_stays_with_the_op() -> None:
    got = rewrite(lambda x: ops.pack(x), images(33, torch.float32))
    assert got.reasons[-1] == "it reads a tensor that is in memory anyway"
    assert got.counts["pack in the pointwise kernel"] == 0


def test_the_devices_are_part_of_the_cache_key(monkeypatch: pytest.MonkeyPatch) -> None:
    both = BinopPass().uuid()
    monkeypatch.setattr(fuse_pack, "DEVICES", {"cuda"})
    assert BinopPass().uuid() != both
