"""The run: contenders of a case take turns, every output is checked first, failures stay rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from binop.bench import ceilings, networks
from binop.bench.cases import Case
from binop.bench.clocks import Clock, Sample, WallClock
from binop.bench.contender import Contender, Recipe
from binop.bench.contenders import PEERS, operands_for, recipes
from binop.bench.gate import WrongResultError
from binop.bench.graph_clock import GraphClock
from binop.bench.result import Ceiling, Group, Row, threads_suffix
from binop.bench.verdict import judge

_FEWEST_ROUNDS = 3
# Enough to read the clock; few enough that even many-kernel calls fit the launch queue.
_HOST_CALLS = 20


@dataclass(frozen=True)
class Plan:
    """What to measure: ``repeats`` rounds a case, fewer if they take over ``seconds``. ``names``
    limits the contenders; ``cold`` keeps the inputs of convolutions out of the cache as well;
    ``autotune`` lets Inductor try kernels for networks; ``sustained`` lets each contender run for
    a while before its samples, which take as long."""

    device: torch.device
    cases: Sequence[Case]
    repeats: int
    seconds: float
    seed: int
    names: Sequence[str] | None = None
    cold: bool = False
    autotune: bool = False
    sustained: bool = False


@dataclass
class Entry:
    """A contender on its way through a case."""

    recipe: Recipe
    contender: Contender | None = None
    sample: Sample | None = None
    times: list[float] = field(default_factory=list)
    clocks: list[float] = field(default_factory=list)
    error: str | None = None
    kernels: list[dict[str, Any]] | None = None


Measured = tuple[list[Ceiling], list[Group]]


def run(
    plan: Plan,
    report: Callable[[str], None],
    keep: Callable[[Measured], None] = lambda so_far: None,
) -> Measured:
    """Ceilings first, then every case, on the CPU for one thread and for all. After each case,
    ``keep`` is given what there is.

    Raises:
        WrongResultError: an op of binop returned a wrong result.
    """
    limits: list[Ceiling] = []
    groups: list[Group] = []
    with torch.no_grad(), _autotuned_cudnn():
        for threads in _thread_counts(plan.device):
            with _threads(threads):
                clock = _device_clock(plan)
                suffix = threads_suffix(threads)
                report(f"ceilings{suffix}")
                limits += ceilings.measure(clock, plan.device, threads)
                for case in plan.cases:
                    report(f"{case.name}: {case.shape}{suffix}")
                    group = _measure_case(case, plan, clock, threads)
                    groups.append(judge(group, limits, PEERS[plan.device.type]))
                    keep((limits, groups))
    return limits, groups


def _thread_counts(device: torch.device) -> Sequence[int | None]:
    if device.type == "cuda":
        return [None]
    return sorted({1, torch.get_num_threads()})


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _autotuned_cudnn() -> Iterator[None]:
    """Lets cuDNN try its algorithms during the warm-up: the peer shall be at its best."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _device_clock(plan: Plan) -> Clock:
    if plan.device.type == "cuda":
        return GraphClock(plan.device, plan.sustained)
    return WallClock()


def _clock_for(case: Case, device: torch.device, clock: Clock) -> Clock:
    if case.kind == "overhead" and device.type == "cuda":
        return WallClock(most_calls=_HOST_CALLS, synchronize=torch.cuda.synchronize)
    return clock


def _measure_case(case: Case, plan: Plan, clock: Clock, threads: int | None) -> Group:
    # A pack must read its input from memory: that is what it is measured by.
    cold = case.kind == "pack" or (plan.cold and case.kind != "overhead")
    cold_bytes = 2 * clock.cache_bytes if cold else 0
    clock = _clock_for(case, plan.device, clock)
    operands = operands_for(case, plan.device, plan.seed, cold_bytes, plan.autotune)
    entries = [
        Entry(recipe)
        for recipe in recipes(plan.device.type, case.kind, case.extra)
        if plan.names is None or recipe.name in plan.names
    ]
    for entry in entries:
        get_ready(entry, operands, clock)
    take_turns(entries, clock, plan.repeats, plan.seconds)
    for entry in entries:
        if plan.device.type == "cuda" and entry.contender is not None and entry.contender.by_kernel:
            with _reported(entry):
                entry.kernels = networks.breakdown(entry.contender.calls[0])
    rows = [_row(entry) for entry in entries]
    # Compiled code of one case must not count against the recompile limit of the next.
    torch._dynamo.reset()
    return Group(case.name, case.kind, case.shape, threads, None, rows)


def get_ready(entry: Entry, operands: Any, clock: Clock) -> None:
    """Makes the contender and its sample, and checks what both return."""
    with _reported(entry):
        contender = entry.recipe.build(operands)
        _check_calls(contender)
        entry.sample = clock.prepare(contender.calls)
        _check_sample(contender, entry.sample)
        entry.contender = contender


def _check_calls(contender: Contender) -> None:
    if contender.check is not None:
        for call in contender.calls:
            contender.check(call())


def _check_sample(contender: Contender, sample: Sample) -> None:
    """Checks what the timed run itself writes: a replay is not the call it was captured from."""
    outputs = sample.rehearse()
    if contender.check is not None:
        for output in outputs:
            contender.check(output)


@contextmanager
def _reported(entry: Entry) -> Iterator[None]:
    """Turns an exception into the entry's error; a wrong result ends the run."""
    try:
        yield
    except WrongResultError:
        raise
    except Exception as error:
        entry.error = _text(error)
        entry.sample = None


def _text(error: BaseException) -> str:
    """The first line of an error and of those that it followed (a failed capture hides them)."""
    lines = str(error).strip().splitlines() or [""]
    text = f"{type(error).__name__}: {lines[0]}"
    return f"{text} (after {_text(error.__context__)})" if error.__context__ else text


def take_turns(entries: Sequence[Entry], clock: Clock, repeats: int, seconds: float) -> None:
    """Round-robin from a different first contender each round; fewer rounds past ``seconds``."""
    start = time.perf_counter()
    for turn in range(repeats):
        running = [entry for entry in entries if entry.sample is not None]
        first = turn % max(1, len(running))
        for entry in running[first:] + running[:first]:
            with _reported(entry):
                assert entry.sample is not None
                entry.sample.launch()
        for entry in running:
            with _reported(entry):
                clock.wait()
                if entry.sample is not None:
                    entry.times.append(entry.sample.seconds())
                    megahertz = entry.sample.megahertz()
                    if megahertz is not None:
                        entry.clocks.append(megahertz)
        if turn + 1 >= _FEWEST_ROUNDS and time.perf_counter() - start > seconds:
            return


def _row(entry: Entry) -> Row:
    row = Row(entry.recipe.name, entry.recipe.ours)
    if entry.error or entry.contender is None or entry.sample is None or not entry.times:
        return replace(row, error=entry.error or "not run")
    work = entry.contender.work
    low, median, high = (1e6 * t for t in _quartiles(entry.times))
    return replace(
        row,
        bytes=work.bytes,
        ops=work.ops,
        arithmetic=work.arithmetic,
        median_us=median,
        low_us=low,
        high_us=high,
        rounds=len(entry.times),
        calls_per_sample=entry.sample.calls,
        rotated_bytes=entry.sample.rotated_bytes,
        clock_mhz=statistics.median(entry.clocks) if entry.clocks else None,
        kernels=entry.kernels,
    )


def _quartiles(times: Sequence[float]) -> list[float]:
    if len(times) == 1:
        return [times[0]] * 3
    return statistics.quantiles(times, n=4, method="inclusive")
