"""The path past the dispatcher's second round: taken only where nothing stands between."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from binop.eager import without_dispatch

Op = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@pytest.fixture(scope="module")
def probe() -> tuple[Op, list[str]]:
    """An op on four tensors that notes which of its functions serves it."""
    library = torch.library.Library("binop_probe", "DEF")
    library.define("sum(Tensor x, Tensor weight, Tensor scale_a, Tensor scale_w) -> Tensor")
    served: list[str] = []

    def kernel(*tensors: Tensor) -> Tensor:
        served.append("kernel")
        return sum(tensors[1:], tensors[0])

    def general(keyset: torch._C.DispatchKeySet, *tensors: Tensor) -> Tensor:
        served.append("general")
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.binop_probe.sum(*tensors)

    library.impl("sum", kernel, "CPU")
    library.impl("sum", without_dispatch("CPU", kernel, general), "AutogradCPU", with_keyset=True)
    torch.library.register_fake("binop_probe::sum", lambda x, *_: torch.empty_like(x), lib=library)
    served.append(library)  # type: ignore[arg-type]  # keeps it registered
    return torch.ops.binop_probe.sum, served


def _path(probe: tuple[Op, list[str]], tensors: list[Tensor]) -> str:
    op, served = probe
    del served[1:]
    op(*tensors)
    return served[1]


def _tensors() -> list[Tensor]:
    return [torch.randn(3) for _ in range(4)]


def test_plain_calls_go_to_the_kernel(probe: tuple[Op, list[str]]) -> None:
    assert _path(probe, _tensors()) == "kernel"
    assert _path(probe, [torch.nn.Parameter(t, requires_grad=False) for t in _tensors()]) == (
        "kernel"
    )
    with torch.no_grad():
        assert _path(probe, [t.requires_grad_() for t in _tensors()]) == "kernel"


@pytest.mark.parametrize("index", range(4))
def test_gradients_need_the_general_path(probe: tuple[Op, list[str]], index: int) -> None:
    tensors = _tensors()
    tensors[index].requires_grad_()
    assert _path(probe, tensors) == "general"


def test_modes_and_subclasses_need_the_general_path(probe: tuple[Op, list[str]]) -> None:
    with FlopCounterMode(display=False):
        assert _path(probe, _tensors()) == "general"
    mode = FakeTensorMode()
    assert _path(probe, [mode.from_tensor(t) for t in _tensors()]) == "general"
    with torch.autograd.forward_ad.dual_level():
        assert _path(probe, _tensors()) == "general"
    negative = [torch._neg_view(t) for t in _tensors()]
    assert _path(probe, negative) == "general"


def test_transforms_never_see_the_kernel_with_wrapped_tensors(
    probe: tuple[Op, list[str]],
) -> None:
    op, served = probe
    del served[1:]
    torch.func.grad(lambda x, *rest: op(x * 1, *rest).sum().detach() + x.sum())(*_tensors())
    assert served[1] == "general"
