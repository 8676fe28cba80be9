"""``python -m binop bench --tune``: which kernel and tile is the fastest on the GPU at hand.

Every choice (those that the estimates of their kernels do not rule out) must return what the
heuristic's returns, to the bit; that is checked by the gate. The choices of a problem are first
timed one after the other; the fastest of them then take turns.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from binop._cuda import jit
from binop._cuda.choice import Choice
from binop._cuda.launches import Device, Kernel
from binop.bench.by_kernel import by_choice
from binop.bench.cases import Case
from binop.bench.clocks import Clock
from binop.bench.contender import Contender, Recipe
from binop.bench.contenders import operands_for, recipes
from binop.bench.findings import OUTPUTS, Finding, Problem, problems
from binop.bench.gate import WrongResultError
from binop.bench.measure import Entry, get_ready, take_turns
from binop.bench.operands import ConvOperands
from binop.bench.text import number

_SCREEN_ROUNDS = 5
# What is so much slower than the fastest alone is not the fastest in turns.
_FINALIST = 1.08
_MOST_FINALISTS = 6

Report = Callable[[str], None]


def compile_all(kernels: Iterable[Kernel], arch: str, report: Report) -> None:
    """Into the disk cache, by as many processes as there are processors."""
    wanted = list(dict.fromkeys(kernels))
    report(f"compiling {len(wanted)} kernels")
    workers = max(1, min(os.cpu_count() or 1, len(wanted)))
    # Not forked: this process may have a CUDA context.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for _ in pool.map(partial(_compile, arch=arch), wanted):
            pass


def _compile(kernel: Kernel, arch: str) -> None:
    with suppress(RuntimeError):  # It comes again where the choice is tried, and is told there.
        jit.cubin(kernel, arch)


def tune(
    problem: Problem,
    operands: ConvOperands,
    listed: Sequence[Choice],
    clock: Clock,
    repeats: int,
    seconds: float,
) -> Finding:
    """Measures the choices, of which the first is the heuristic's.

    Raises:
        WrongResultError: a choice returned something else than the heuristic's.
        RuntimeError: the heuristic's choice failed.
    """
    (recipe,) = (r for r in recipes("cuda", "layer") if r.name == problem.contender)
    wanted: list[Tensor] = []

    def build(choice: Choice, operands: ConvOperands) -> Contender:
        contender = by_choice(operands, recipe.build, choice)
        if not wanted:
            output = contender.calls[0]()
            if contender.check is not None:
                contender.check(output)
            wanted.append(output)
        what = f"{problem.case.name}: {problem.contender} by {choice}"
        return replace(contender, check=partial(_require_same, wanted[0], what))

    def measured(candidates: Sequence[Choice], repeats: int) -> dict[Choice, Entry]:
        entries = {
            each: Entry(Recipe(str(each), True, partial(build, each))) for each in candidates
        }
        for entry in entries.values():
            get_ready(entry, operands, clock)
        take_turns(list(entries.values()), clock, repeats, seconds)
        for entry in entries.values():
            entry.sample = None  # and its outputs, which may fill a device
        return entries

    heuristic = listed[0]
    failed: dict[Choice, str] = {}
    alone: dict[Choice, float] = {}
    for choice in listed:
        _sort_out(measured([choice], _SCREEN_ROUNDS), alone, failed)
        _require(heuristic, failed)
    limit = _FINALIST * min(alone.values())
    fastest = sorted(alone, key=alone.__getitem__)[:_MOST_FINALISTS]
    finalists = [choice for choice in fastest if alone[choice] <= limit]
    in_turns: dict[Choice, float] = {}
    _sort_out(measured(list(dict.fromkeys([heuristic, *finalists])), repeats), in_turns, failed)
    _require(heuristic, failed)
    return Finding(problem, heuristic, in_turns, alone, failed)


def _require(heuristic: Choice, failed: dict[Choice, str]) -> None:
    if heuristic in failed:
        raise RuntimeError(f"the heuristic's choice, {heuristic}, failed: {failed[heuristic]}")


def _sort_out(
    entries: dict[Choice, Entry], times: dict[Choice, float], failed: dict[Choice, str]
) -> None:
    for choice, entry in entries.items():
        if entry.error is not None or not entry.times:
            failed[choice] = entry.error or "not run"
        else:
            times[choice] = 1e6 * statistics.median(entry.times)


def _require_same(wanted: Tensor, what: str, got: Tensor) -> None:
    same = got.shape == wanted.shape and got.stride() == wanted.stride()
    if not same or not torch.equal(_bits(got), _bits(wanted)):
        raise WrongResultError(f"{what}: not what the heuristic's choice returns")


def _bits(tensor: Tensor) -> Tensor:
    """So that zeros of both signs differ."""
    return tensor.view(torch.int16) if tensor.itemsize == 2 else tensor.view(torch.int32)


@dataclass(frozen=True)
class Plan:
    """What to tune: through the contenders ``names`` of ``cases``, among all kernels or one. The
    rounds are those of ``measure.Plan``; ``within`` is of ``Problem.choices``."""

    device: torch.device
    cases: Sequence[Case]
    names: Sequence[str] | None
    kernel: str | None
    within: float
    repeats: int
    seconds: float
    seed: int


def run(
    plan: Plan,
    report: Report,
    keep: Callable[[Device, list[Finding]], None] = lambda facts, so_far: None,
) -> tuple[Device, list[Finding]]:
    """Measures on a CUDA device. After each problem, ``keep`` is given what there is."""
    from binop._cuda.launch import device_facts
    from binop.bench.graph_clock import GraphClock

    index = torch.cuda.current_device() if plan.device.index is None else plan.device.index
    facts = device_facts(index)
    found = {
        p: p.choices(facts, plan.within, plan.kernel) for p in problems(plan.cases, plan.names)
    }
    listed = {problem: choices for problem, choices in found.items() if choices}
    if not listed:
        names = ", ".join(OUTPUTS)
        raise ValueError(f"--tune: expected cases and contenders ({names}) that a kernel serves")
    kernels = (problem.kernel(choice, facts) for problem in listed for choice in listed[problem])
    compile_all(kernels, jit.architecture(facts.capability), report)
    clock = GraphClock(plan.device)
    findings = []
    operands: ConvOperands | None = None
    with torch.no_grad():
        for problem, choices in listed.items():
            report(f"{problem.case.name}: {problem.contender}: {len(choices)} choices")
            if operands is None or operands.case != problem.case:
                operands = None  # before the next are made
                made = operands_for(problem.case, plan.device, plan.seed, 0)
                assert isinstance(made, ConvOperands)
                operands = made
            finding = tune(problem, operands, choices, clock, plan.repeats, plan.seconds)
            for choice in sorted(finding.alone, key=finding.alone.__getitem__):
                report(f"  {choice}: {number(finding.alone[choice])} us alone")
            for choice, error in finding.failed.items():
                report(f"  {choice}: failed: {error}")
            findings.append(finding)
            keep(facts, findings)
            torch.cuda.empty_cache()  # of the graphs that are gone
    return facts, findings
