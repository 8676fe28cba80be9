"""Contenders of the benchmark that run by a kernel which the plan would not choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from bench_runs import run_group, tiny_plan

from binop._cuda.launches import Launch
from binop.bench import by_kernel, contenders, gate, tables
from binop.bench.cases import ConvCase, cases
from binop.bench.operands import ConvOperands
from binop.bench.result import Ceiling, Group, Result, Row
from binop.bench.verdict import judge

_CASE = ConvCase("tiny", "layer", 2, 64, 6, 40)


@pytest.fixture
def operands(hopper: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ConvOperands:
    """Of CPU tensors, which the emulated kernels convolve."""
    for op in ("binary_conv2d_threshold", "binary_conv2d_packed"):
        monkeypatch.setattr(torch.ops.binop, op, getattr(hopper, op))
    return ConvOperands(_CASE, torch.device("cpu"), torch.bfloat16, 0, 0)


@pytest.mark.parametrize("name", contenders.EXTRA)
def test_conv_mma_runs_where_the_plan_has_better(
    name: str, operands: ConvOperands, launched: list[Launch]
) -> None:
    contender = contenders.EXTRA[name].build(operands)
    (call,) = contender.calls
    assert contender.check is not None
    contender.check(call())
    assert [launch.kernel.entry for launch in launched] == ["conv_mma"]
    assert contender.work.arithmetic == "b1 mma.sync"
    plain = next(r for r in contenders.recipes("cuda", "layer") if r.name == name[:-4])
    assert plain.build(operands).work.ops == contender.work.ops
    wrong = call()
    wrong.view(torch.int16)[0, 0, 0, 0] ^= 1
    with pytest.raises(gate.WrongResultError):
        contender.check(wrong)


def _capability(capability: tuple[int, int]) -> Callable[..., tuple[int, int]]:
    return lambda *_: capability


@pytest.mark.parametrize(("capability", "has"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_only_devices_that_have_it(
    capability: tuple[int, int], has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("packed-to-packed-mma", "packed-to-float-mma")
    assert contenders.recipes("cuda", "layer", names) == contenders.recipes("cuda", "layer")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", _capability(capability))
    monkeypatch.setattr(by_kernel, "cuda_obstacle", lambda _: None)
    found = contenders.recipes("cuda", "layer", names)
    more = found[len(contenders.recipes("cuda", "layer")) :]
    assert tuple(recipe.name for recipe in more) == (names if has else ())


@pytest.mark.cuda
def test_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    case = replace(_CASE, extra=tuple(contenders.EXTRA))
    names = ["packed-to-packed", *contenders.EXTRA]
    group = run_group(monkeypatch, tiny_plan(case, "cuda", names=names))
    wanted = names if by_kernel.mma_available() else names[:1]
    assert [(row.contender, row.error) for row in group.rows] == [(name, None) for name in wanted]


def test_the_cases_with_much_arithmetic_have_it() -> None:
    assert {case.name for case in cases("cuda") if case.extra} == {"s5", "s6"}
    assert {name for case in cases("cuda") for name in case.extra} == set(contenders.EXTRA)


def test_its_share_is_of_the_instruction_s_own_peak() -> None:
    row = Row("packed-to-packed-mma", True, 10**6, 5 * 10**9, "b1 mma.sync", 1.0, 0.9, 1.1, 50, 9)
    ceilings = [
        Ceiling("copy", 4e12, ""),
        Ceiling("b1", 15e15, ""),
        Ceiling("b1 mma.sync", 10e15, ""),
    ]
    group = judge(Group("s5", "layer", "shape", None, None, [row]), ceilings, ())
    assert group.rows[0].share_of_floor == pytest.approx(0.5)
    result = Result("some", "", {"device": "some", "kind": "cuda"}, {}, ceilings, [group])
    table = tables.TABLES["mma"](result)
    assert table.rows == [
        ["s5", "shape", "packed-to-packed-mma", "1.00", "5.00 POPS", "50%"],
    ]
