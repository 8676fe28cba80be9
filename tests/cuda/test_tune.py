"""``python -m binop bench --tune`` without a GPU: kernels run emulated, and the time is made up."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from test_plan import CALL, layer
from test_plan_wgmma import H200

from binop import backends, bench
from binop._cuda import jit, tuned
from binop._cuda.choice import Choice
from binop._cuda.conv_kernels import WARPGROUP_WIDE, plan_choice
from binop._cuda.launches import Kernel, Launch
from binop._cuda.plan_conv import choice_by_estimate, plan_conv
from binop._cuda.tuned import Entry, Key
from binop.bench import findings, graph_clock, tune
from binop.bench.cases import ConvCase, PackCase, cases, select
from binop.bench.clocks import Call
from binop.bench.findings import Finding, Problem, problems
from binop.bench.gate import WrongResultError
from binop.bench.operands import ConvOperands

_CASE = ConvCase("tiny", "layer", 2, 64, 8, 64)
_PACK = PackCase("p", 1, 64, 8)
_PROBLEM = Problem(_CASE, "packed-to-packed")
_ROWS, _WIDE, _MMA = (
    Choice("conv_wgmma_rows", (64, 2)),
    Choice("conv_wgmma", (32, 1)),
    Choice("conv_mma", (16, 32, 1, 1, 4, 0, 1, 1)),
)


@dataclass
class MadeUpSample:
    """Takes as long as is said of the kernel that its calls launch."""

    call: Call
    time: float
    calls: int = 1
    rotated_bytes: int | None = None
    launched: int = 0

    def launch(self) -> None:
        self.launched += 1

    def seconds(self) -> float:
        return self.time

    def megahertz(self) -> None:
        return None

    def rehearse(self) -> Sequence[torch.Tensor]:
        return [self.call()]


class MadeUpClock:
    cache_bytes = 0

    def __init__(self, launched: list[Launch], times: dict[str, float]) -> None:
        self._launched = launched
        self._times = times
        self.samples: list[tuple[str, MadeUpSample]] = []

    def prepare(self, calls: Sequence[Call]) -> MadeUpSample:
        calls[0]()
        kernel = self._launched[-1].kernel.entry
        self.samples.append((kernel, MadeUpSample(calls[0], self._times[kernel])))
        return self.samples[-1][1]

    def wait(self) -> None:
        pass


@pytest.fixture
def operands(hopper: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ConvOperands:
    for op in ("binary_conv2d_threshold", "binary_conv2d_packed", "binary_conv2d"):
        monkeypatch.setattr(torch.ops.binop, op, getattr(hopper, op))
    return ConvOperands(_CASE, torch.device("cpu"), torch.bfloat16, 0, 0)


@pytest.mark.parametrize("contender", findings.OUTPUTS)
def test_the_fastest_is_found(
    contender: str, operands: ConvOperands, launched: list[Launch]
) -> None:
    times = {"conv_wgmma_rows": 2e-5, "conv_wgmma": 1e-5, "conv_mma": 9e-5}
    clock = MadeUpClock(launched, times)
    problem = Problem(_CASE, contender)
    finding = tune.tune(problem, operands, [_ROWS, _WIDE, _MMA], clock, 7, 10.0)
    assert (finding.heuristic, finding.best) == (_ROWS, _WIDE)
    assert finding.alone == pytest.approx({_ROWS: 20.0, _WIDE: 10.0, _MMA: 90.0})
    assert finding.failed == {}
    assert finding.us == pytest.approx({_ROWS: 20.0, _WIDE: 10.0})  # the others are out of it
    assert finding.gain == pytest.approx(2.0)
    # Each alone, then two in turns.
    assert [(kernel, sample.launched) for kernel, sample in clock.samples] == [
        ("conv_wgmma_rows", 5),
        ("conv_wgmma", 5),
        ("conv_mma", 5),
        ("conv_wgmma_rows", 7),
        ("conv_wgmma", 7),
    ]
    # What the ops would be planned with is what the table is asked for.
    entry = finding.entry(H200)
    assert entry is not None
    assert entry.key == Key.of(_CASE.geometry, problem.call, H200)
    assert {launch.kernel.entry for launch in launched} >= set(times)


def test_a_choice_that_fails_is_told(operands: ConvOperands, launched: list[Launch]) -> None:
    clock = MadeUpClock(launched, {"conv_wgmma_rows": 2e-5, "conv_wgmma": 1e-5})
    impossible = Choice("conv_wgmma", (48, 1))
    finding = tune.tune(_PROBLEM, operands, [_ROWS, impossible, _WIDE], clock, 3, 10.0)
    assert finding.best == _WIDE
    assert list(finding.failed) == [impossible]
    assert "expected a tile" in finding.failed[impossible]
    assert findings.table([finding]).rows == [
        ["tiny", "packed-to-packed", "conv_wgmma_rows 64x2", "20.0", "conv_wgmma 32x1", "10.0",
         "2.000x", "2, 1 failed"],
    ]  # fmt: skip
    with pytest.raises(RuntimeError, match="heuristic's choice, conv_wgmma 48x1, failed"):
        tune.tune(_PROBLEM, operands, [impossible, _WIDE], clock, 3, 10.0)


@pytest.mark.parametrize("wrong", ["conv_wgmma_rows", "conv_wgmma"])
def test_a_choice_that_computes_something_else_ends_it(
    wrong: str, operands: ConvOperands, launched: list[Launch], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = torch.ops.binop.binary_conv2d_threshold

    def convolve(*arguments: object, **options: object) -> torch.Tensor:
        bits = right(*arguments, **options)
        if launched[-1].kernel.entry == wrong:
            bits[-1, -1, -1, -1] ^= 1 << 30
        return bits

    monkeypatch.setattr(torch.ops.binop, "binary_conv2d_threshold", convolve)
    clock = MadeUpClock(launched, {"conv_wgmma_rows": 2e-5, "conv_wgmma": 1e-5})
    with pytest.raises(WrongResultError, match="tiny: packed-to-packed"):
        tune.tune(_PROBLEM, operands, [_ROWS, _WIDE], clock, 3, 10.0)


def test_a_run_goes_through_cases_and_contenders(
    operands: ConvOperands, launched: list[Launch], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {"conv_wgmma_rows": 2e-5, "conv_wgmma": 1e-5, "conv_wgmma_in_place": 3e-5}
    compiled: list[Kernel] = []
    monkeypatch.setattr(graph_clock, "GraphClock", lambda _: MadeUpClock(launched, times))
    monkeypatch.setattr(tune, "operands_for", lambda case, *_: operands)
    monkeypatch.setattr(tune, "compile_all", lambda kernels, *_: compiled.extend(kernels))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    said: list[str] = []
    names = ["packed-to-packed", "packed-to-float"]
    plan = tune.Plan(torch.device("cuda"), [_CASE, _PACK], names, None, 1.0, 3, 1.0, 0)
    facts, found = tune.run(plan, said.append)
    assert facts == H200
    assert [finding.problem.contender for finding in found] == names
    assert {launch.kernel for launch in launched} == set(compiled)
    assert all(finding.best.kernel == "conv_wgmma" for finding in found)
    assert all(finding.failed == {} for finding in found)
    assert {launch.kernel.entry for launch in launched} == set(times)
    # Two tiles of conv_wgmma_in_place are estimated the same.
    assert said[0] == "tiny: packed-to-packed: 4 choices"
    assert said[1].endswith(": 10.0 us alone")
    with pytest.raises(ValueError, match="that a kernel serves"):
        tune.run(replace(plan, cases=[_PACK]), said.append)


def test_zeros_have_a_sign() -> None:
    zero = torch.zeros(4, dtype=torch.bfloat16)
    tune._require_same(zero, "", zero.clone())
    with pytest.raises(WrongResultError):
        tune._require_same(zero, "", -zero)


def _problem(name: str, contender: str = "packed-to-float") -> Problem:
    (case,) = (case for case in cases("cuda") if case.name == name)
    assert isinstance(case, ConvCase)
    return Problem(case, contender)


def test_choices_that_estimates_rule_out_are_not_tried() -> None:
    problem = _problem("s3")
    few, more, every = (problem.choices(H200, within) for within in (1.0, 1.5, float("inf")))
    assert few[0] == choice_by_estimate(problem.case.geometry, problem.call, H200)
    # Where these run, conv_mma has no chance.
    assert {choice.kernel for choice in few} == set(WARPGROUP_WIDE)
    assert 2 <= len(few) < len(more) < len(every)
    assert set(few) < set(more) < set(every)
    assert len(set(every)) == len(every)


def test_tiles_of_one_kernel() -> None:
    problem = _problem("s6")
    tiles = problem.choices(H200, 2.0, "conv_mma")
    assert {choice.kernel for choice in tiles} == {"conv_mma"}
    planned = plan_conv(problem.case.geometry, problem.call, H200, Choice("conv_mma"))
    assert plan_choice(problem.case.geometry, problem.call, H200, tiles[0]) == planned
    assert problem.choices(H200, 2.0, "conv_wgmma_rows") == []


@pytest.mark.usefixtures("pretended_device")
def test_what_is_found_of_one_kernel_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tune, "run", lambda *_: (H200, [_finding("s3", 9.0)]))
    out = tmp_path / "tuned.json"
    assert bench.run(_options("--tune", "--kernel", "conv_wgmma", "--out", str(out))) == 0
    assert "1.111x" in capsys.readouterr().out
    assert not out.exists()


def test_problems_are_of_cases_that_time_the_device() -> None:
    chosen = (ConvCase("o", "overhead", 1, 64, 8, 64), _PACK, _CASE)
    assert problems(chosen, None) == [Problem(_CASE, name) for name in findings.OUTPUTS]
    assert problems(chosen, ["packed-to-packed", "conv2d-bf16"]) == [_PROBLEM]


def _finding(name: str, us: float) -> Finding:
    problem = _problem(name)
    heuristic = choice_by_estimate(problem.case.geometry, problem.call, H200)
    times = {heuristic: 10.0, Choice("conv_wgmma", (96, 1)): us}
    return Finding(problem, heuristic, times, times, {})


def test_the_table_gets_what_is_clearly_faster(tmp_path: Path) -> None:
    better, noise = _finding("s3", 9.0), _finding("s4", 9.9)
    old = Entry(Key.of(noise.problem.case.geometry, noise.problem.call, H200), _MMA, 1.0, 2.0)
    other = replace(old, key=replace(old.key, multiprocessors=78))
    entries = findings.merged([old, other], [better, noise], H200)
    key = Key.of(better.problem.case.geometry, better.problem.call, H200)
    assert entries == [other, Entry(key, Choice("conv_wgmma", (96, 1)), 9.0, 10.0)]
    path = tmp_path / "tuned.json"
    tuned.save(entries, path)
    assert set(tuned.load(path)) == set(entries)


def test_stale_entries_are_told_of_this_device_alone() -> None:
    key = Key.of(layer(256, 14, 256), CALL, H200)
    gone = Entry(key, Choice("conv_wgmma", (48, 2)), 1.0, 2.0)
    elsewhere = replace(gone, key=replace(key, multiprocessors=78))
    found = findings.stale([gone, elsewhere, replace(gone, choice=_WIDE)], H200)
    assert list(found) == [gone]
    assert "expected a tile (channels x consumers) out of 32x1" in found[gone]


def test_kernels_compile_in_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BINOP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tune.os, "cpu_count", lambda: 1)
    kernel = plan_choice(_CASE.geometry, CALL, H200, _WIDE).kernel
    broken = Kernel("unpack.cu", (("ELEMENT", "float8"),))
    told: list[str] = []
    tune.compile_all([broken, kernel, kernel], "sm_90a", told.append)
    assert told == ["compiling 2 kernels"]
    assert [path.suffix for path in tmp_path.iterdir()] == [".cubin"]
    monkeypatch.setattr(jit, "compile_kernel", lambda *_: pytest.fail("compiled again"))
    assert jit.cubin(kernel, "sm_90a").startswith(b"\x7fELF")


def _options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.fixture
def pretended_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as the command line looks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(backends, "cuda_obstacle", lambda _: None)


@pytest.mark.usefixtures("pretended_device")
def test_the_command_writes_the_table_that_the_plan_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    better = _finding("s3", 9.0)
    asked = []

    def run(plan: tune.Plan, report: object, keep: object) -> object:
        asked.append(plan)
        return H200, [better]

    monkeypatch.setattr(tune, "run", run)
    out = tmp_path / "tuned.json"
    gone = Entry(Key.of(layer(32, 7, 32), CALL, H200), Choice("conv_wgmma", (48, 2)), 1.0, 2.0)
    tuned.save([gone], out)
    arguments = ["--tune", "--cases", "s3", "--out", str(out), "--repeats", "9", "--within", "2"]
    assert bench.run(_options(*arguments, "--contenders", "packed-to-float", "--seed", "5")) == 0
    cuda, (s3,) = torch.device("cuda"), select("cuda", ["s3"], quick=False)
    assert asked == [tune.Plan(cuda, (s3,), ["packed-to-float"], None, 2.0, 9, 10.0, 5)]
    shown = capsys.readouterr()
    assert "dropped conv_wgmma 48x2" in shown.err
    assert "1.111x" in shown.out
    (entry,) = tuned.load(out)
    monkeypatch.setattr(tuned, "_table", lambda: {entry.key: entry.choice})
    launch = plan_conv(better.problem.case.geometry, replace(CALL, scale_w_stride=1), H200)
    assert launch is not None
    assert launch.reason.startswith("tuned: ")
    assert launch.kernel == better.problem.kernel(better.best, H200)


@pytest.mark.usefixtures("pretended_device")
@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (WrongResultError("s3: not what"), 1, "nothing written: s3: not what"),
        (ValueError("--tune: expected cases"), 2, "--tune: expected cases"),
    ],
)
def test_a_run_that_ends_early_changes_no_table(
    raised: Exception,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*_: object) -> object:
        raise raised

    monkeypatch.setattr(tune, "run", run)
    out = tmp_path / "tuned.json"
    tuned.save([], out)
    before = out.read_text()
    assert bench.run(_options("--tune", "--out", str(out))) == code
    assert message in capsys.readouterr().err
    assert out.read_text() == before


@pytest.mark.usefixtures("pretended_device")
def test_a_run_that_is_killed_leaves_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    better = _finding("s3", 9.0)

    def run(plan: object, report: object, keep: Callable[..., None]) -> object:
        keep(H200, [better])
        raise KeyboardInterrupt

    monkeypatch.setattr(tune, "run", run)
    out = tmp_path / "tuned.json"
    tuned.save([], out)
    with pytest.raises(KeyboardInterrupt):
        bench.run(_options("--tune", "--out", str(out)))
    assert tuned.load(out) == []
    (entry,) = tuned.load(tmp_path / ".tuned.partial.json")
    assert entry.choice == better.best


def test_tuning_is_for_cuda(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run(_options("--tune", "--device", "cpu")) == 2
    assert "--tune: the CUDA kernels alone" in capsys.readouterr().err


@pytest.mark.cuda
def test_tuning_on_the_device(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    case = replace(_CASE, n=8, size=28)
    plan = tune.Plan(torch.device("cuda"), [case], None, None, 1.1, 3, 1.0, 0)
    _, found = tune.run(plan, said.append)
    assert [finding.problem.contender for finding in found] == list(findings.OUTPUTS)
    for finding in found:
        assert finding.failed == {}
        assert min(finding.us.values()) > 0
        assert finding.gain >= 1
