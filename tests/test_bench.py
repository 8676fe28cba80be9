"""The benchmark's arithmetic, gate, tables and files; nothing here depends on how long it takes."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_runs import TINY, made_up_result, run_group, tiny_plan

from binop import bench
from binop.bench import (
    command,
    contenders,
    gate,
    measure,
    plots,
    readme,
    tables,
    text,
    work,
    writers,
)
from binop.bench.cases import ConvCase, PackCase, cases, groups, select
from binop.bench.clocks import WallClock
from binop.bench.result import Ceiling, Group, Result, Row, from_json, load, save, slug, to_json
from binop.bench.verdict import judge


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.fixture
def result() -> Result:
    return made_up_result()


def test_floor_is_the_larger_term_and_names_it():
    some = work.Work(bytes=1000, ops=4000, arithmetic="b1")
    assert work.floor(some, bandwidth=100.0, peak=1000.0) == work.Floor(10.0, "memory")
    assert work.floor(some, bandwidth=1000.0, peak=1000.0) == work.Floor(4.0, "arithmetic")
    assert work.floor(some, bandwidth=1000.0, peak=None) == work.Floor(1.0, "memory")
    assert work.floor(some, None, None) is None


def test_work_counts_each_tensor_once():
    geometry = ConvCase("", "layer", 2, 33, 8, 5, stride=2).geometry
    got = work.conv_work(geometry, "packed", torch.bfloat16, torch.float32, "b1", channel_bytes=4)
    x, weight, y, scale = 2 * 64 * 2 * 4, 5 * 9 * 33 * 2, 2 * 16 * 5 * 4, 5 * 4
    assert got == work.Work(x + weight + y + scale, 2 * (2 * 16 * 5) * (33 * 9), "b1")
    assert work.pack_work(PackCase("", 2, 33, 8), torch.float16).bytes == 128 * (66 + 8)


def test_floor_of_s1_is_what_its_bytes_take(result: Result):
    packed = result.groups[0].rows[1]
    assert packed.bytes == 2 * 256 * 56 * 56 * 8 + 64 * 9 * 8
    assert packed.ops == 2 * 256 * 56 * 56 * 64 * 576
    assert packed.bound == "arithmetic"
    assert packed.floor_us == pytest.approx(packed.ops / 10e15 * 1e6)
    assert packed.share_of_floor == pytest.approx(packed.floor_us / 20.0)
    assert packed.speedup == pytest.approx(5.0)


def test_missing_ceiling_is_told_and_the_fastest_peer_counts():
    rows = [
        Row("a", False, 100, 100, "fp32", 10.0),
        Row("b", False, 100, 100, "fp32", 8.0),
        Row("ours", True, 100, 100, "b1", 2.0),
    ]
    judged = judge(Group("", "layer", "", 2, None, rows), [Ceiling("copy", 1e8, "", 2)], ("a", "b"))
    assert judged.peer == "b"
    assert judged.rows[2].speedup == 4.0
    assert judged.rows[2].bound == "memory (no ceiling for b1)"


# The ids are not "cuda" and "cpu": the table for CUDA can be read without a device.
@pytest.mark.parametrize("device", ["cuda", "cpu"], ids=["gpu", "host"])
def test_case_names_are_unique_and_selectable(device: str):
    names = [case.name for case in cases(device)]
    assert len(set(names)) == len(names)
    assert [c.name for c in select(device, [names[2], names[0]], False)] == [names[0], names[2]]
    assert 0 < len(select(device, None, quick=True)) < len(names)
    with pytest.raises(ValueError, match=r"cases: expected names out of .* got nonsense"):
        select(device, ["nonsense"], False)


def test_groups_are_measured_when_they_are_named():
    by_group = groups("cuda")
    members = [case for group in by_group.values() for case in group]
    names = [case.name for case in (*cases("cuda"), *members)]
    assert len(set(names) | set(by_group)) == len(names) + len(by_group)
    assert not set(members) & set(select("cuda", None, quick=False))
    for group, its in by_group.items():
        assert select("cuda", [group], False) == its
    mixed = select("cuda", ["s1", "channels", "s4-n8"], False)
    assert [case.name for case in mixed] == ["s1", "s4-n8", "c48", "c96", "c160", "c1024", "c2048"]
    for device, networks in (("cpu", False), ("cuda", True)):
        with pytest.raises(ValueError, match="got siblings"):
            select(device, ["siblings"], False, networks)


def test_results_of_groups_have_blocks_of_their_own():
    default = cases("cuda")
    groups_alone, mixed = (select("cuda", names, False) for names in (["batch8"], ["batch8", "s1"]))
    assert command._suffix(default[:2], default, False, False) == ""
    assert command._suffix(groups_alone, default, False, False) == "-more"
    assert command._suffix(mixed, default, False, False) == ""
    assert command._suffix(cases("cuda", networks=True), default, True, False) == "-networks"
    assert command._suffix(default[:2], default, False, True) == "-sustained"
    assert command._suffix(groups_alone, default, False, True) == "-more-sustained"


@pytest.mark.parametrize("pad_value", [-1, 0, 1])
def test_every_contender_passes_the_gate(monkeypatch: pytest.MonkeyPatch, pad_value: int):
    case = dataclasses.replace(TINY, pad_value=pad_value)
    group = run_group(monkeypatch, tiny_plan(case))
    names = [row.contender for row in group.rows]
    assert {"conv2d-bf16-nchw", "packed-to-packed", "layer", "layer-nchw"} <= set(names)
    assert [row.error for row in group.rows] == [None] * len(names)
    assert all(row.rounds == 3 and row.median_us > 0 for row in group.rows)


def test_pack_case(monkeypatch: pytest.MonkeyPatch):
    group = run_group(monkeypatch, tiny_plan(PackCase("tiny-pack", 2, 33, 5)))
    assert {row.contender: row.error for row in group.rows} == dict.fromkeys(
        ["copy", "pack", "pack-nchw"]
    )


@pytest.mark.parametrize("op", ["binary_conv2d_threshold", "binary_conv2d_packed", "pack"])
def test_gate_stops_a_wrong_contender(monkeypatch: pytest.MonkeyPatch, op: str):
    right = getattr(torch.ops.binop, op)

    def wrong(*args: object, **kwargs: object) -> torch.Tensor:
        y = right(*args, **kwargs).clone()
        y[-1, -1, -1, -1] += 1
        return y

    monkeypatch.setattr(torch.ops.binop, op, wrong)
    with pytest.raises(gate.WrongResultError, match=r"tiny: .* differ from the simulated"):
        run_group(monkeypatch, tiny_plan())


def test_gate_sees_a_dirty_tail():
    bits = torch.rand(1, 33, 2, 2) < 0.5
    clean = torch.ops.binop.pack(torch.where(bits, 1.0, -1.0))
    gate.require_bits(clean, bits, "clean")
    clean[0, 1, 1, 1] |= 2
    with pytest.raises(gate.WrongResultError, match="dirty: 1 of 8 elements differ"):
        gate.require_bits(clean, bits, "dirty")


def test_gate_checks_what_the_timed_run_wrote(monkeypatch: pytest.MonkeyPatch):
    right = WallClock.prepare

    def prepare(self, calls):  # A capture that went wrong: replays write something else.
        sample = right(self, calls)
        sample.rehearse = lambda: [calls[0]() + 1]
        return sample

    monkeypatch.setattr(WallClock, "prepare", prepare)
    with pytest.raises(gate.WrongResultError):
        run_group(monkeypatch, tiny_plan())


def test_failing_contender_is_a_row_with_its_message(monkeypatch: pytest.MonkeyPatch):
    def fail(_: object) -> contenders.Contender:
        raise RuntimeError("no kernel for this\nsecond line")

    def late(operands, calls=[]) -> contenders.Contender:  # noqa: B006
        def call() -> torch.Tensor:
            calls.append(None)
            if len(calls) > 10:
                raise RuntimeError("while timed")
            return operands.alpha

        return contenders.Contender([call], work.Work(1, 1, "b1"))

    table = (
        contenders.recipes("cpu", "layer")[1],
        contenders.Recipe("broken", True, fail),
        contenders.Recipe("late", True, late),
    )
    monkeypatch.setattr(measure, "recipes", lambda *_: table)
    group = run_group(monkeypatch, tiny_plan(names=None))
    assert [row.error for row in group.rows] == [
        None,
        "RuntimeError: no kernel for this",
        "RuntimeError: while timed",
    ]
    assert group.rows[1].median_us is None


def test_json_round_trip(result: Result, tmp_path: Path):
    assert from_json(to_json(result)) == result
    path = tmp_path / "new" / "result.json"
    save(result, path)
    assert load(path) == result
    with pytest.raises(ValueError, match="expected schema 1, got 99"):
        from_json(to_json(dataclasses.replace(result, schema=99)))
    assert slug("NVIDIA H200 (SXM)") == "nvidia-h200-sxm"


def test_tables(result: Result):
    by_title = {table.title: table for table in tables.report(result)}
    layers = tables.TABLES["layers"](result)
    assert layers in by_title.values()
    assert writers.markdown(layers).splitlines() == [
        "| case | N,C,HxW -> O, kernel / stride | "
        "conv2d-bf16 | packed-to-packed | packed-to-float |",
        "|---|---|---|---|---|",
        "| s1 | 256,64,56x56 -> 64, 3x3 | 100 | 20.0 (5.00x, 30%) | failed |",
    ]
    clocks = tables.TABLES["clocks"](result)
    assert clocks.rows[0][2:] == ["100", "20.0 (5.00x, 1950 MHz)", "failed"]
    assert [row[-1] for row in tables.TABLES["full"](result).rows] == ["-", "1950", "-", "-"]
    assert tables.TABLES["pack"](result).rows[0][4:] == ["125", "3200", "80%"]
    assert r"RuntimeError: no \| kernel" in writers.markdown(tables.TABLES["full"](result))
    assert ["driver", "unknown"] in tables.TABLES["provenance"](result).rows
    assert result.failures == ["s1: packed-to-float: RuntimeError: no | kernel"]
    assert [text.number(v) for v in (1.234, 12.34, 1234.5)] == ["1.23", "12.3", "1234"]
    assert [text.rate(v) for v in (11.2e15, 3e12, 5e9)] == ["11.2 POPS", "3.00 TOPS", "5.00 GOPS"]


@pytest.mark.parametrize("missing", [False, True])
def test_terminal_with_and_without_rich(
    result: Result, missing: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    if missing:
        monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None)
    writers.show(tables.report(result))
    shown = capsys.readouterr().out
    assert "20.0 (5.00x, 30%)" in shown
    assert ("pip install 'binop[bench]'" in shown) == missing


def test_readme_blocks(result: Result, tmp_path: Path, capsys: pytest.CaptureFixture):
    block = "<!-- bench:{0} begin -->\nold\n<!-- bench:{0} end -->\n"
    text = "Before\n" + block.format("made-up-1/layers") + block.format("other/layers") + "After\n"
    page, path = tmp_path / "README.md", tmp_path / "result.json"
    page.write_text(text)
    save(result, path)
    check = options("--readme", str(page), str(path), "--check")
    assert bench.run(check) == 1
    assert "differs" in capsys.readouterr().err
    assert page.read_text() == text
    assert bench.run(options("--readme", str(page), str(path))) == 0
    assert bench.run(check) == 0
    fresh = page.read_text()
    assert "20.0 (5.00x, 30%)" in fresh
    assert block.format("other/layers") in fresh
    assert fresh.startswith("Before\n")
    assert fresh.endswith("After\n")


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("nothing", "expected a line <!-- bench:made-up-1/TABLE begin -->"),
        ("<!-- bench:made-up-1/layers begin -->\n", "expected a line <!-- bench:made-up-1/layers"),
        (
            "<!-- bench:made-up-1/x begin -->\n<!-- bench:made-up-1/x end -->\n",
            "expected a table out of provenance",
        ),
    ],
)
def test_bad_readme_blocks(result: Result, page: str, message: str):
    with pytest.raises(ValueError, match=message):
        readme.replace_blocks(page, result)


def test_plots_and_render(result: Result, tmp_path: Path, capsys: pytest.CaptureFixture):
    path = tmp_path / "result.json"
    save(result, path)
    assert bench.run(options("--render", str(path), "--plots", str(tmp_path / "plots"))) == 0
    assert "### Layers" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == [
        "made-up-1-roofline.png",
        "made-up-1-speedup.png",
    ]


def test_usage_errors_name_what_is_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(plots, "available", lambda: False)
    for arguments, message in (
        (["--plots", "x"], "pip install 'binop[bench]'"),
        (["--check"], "expected --readme README FILE"),
        (["--device", "cpu", "--contenders", "nobody"], "got nobody"),
        (["--device", "cpu", "--sustained"], "--sustained: expected a CUDA device, got cpu"),
        (["--render", "/nonexistent.json"], "/nonexistent.json"),
    ):
        assert bench.run(options(*arguments)) == 2
        assert message in capsys.readouterr().err


def test_cpu_run_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "result.json"
    names = ["conv2d-fp32", "packed-to-packed", "float-to-float"]
    arguments = ["--device", "cpu", "--cases", "overhead", "--repeats", "3", "--seconds", "1"]
    assert bench.run(options(*arguments, "--contenders", *names, "--out", str(out))) == 0
    capsys.readouterr()
    result = load(out)
    assert [row.contender for row in result.groups[0].rows] == names
    assert result.groups[0].rows[1].speedup > 0
    assert result.ceiling("copy", result.groups[0].threads) > 0
    assert result.ceiling("b1") is None
    assert bench.run(options("--render", str(out))) == 0
    assert "packed-to-packed" in capsys.readouterr().out


def test_wrong_result_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def fail(plan: Any, report: Any, keep: Callable[[Any], None]) -> None:
        keep(([], []))
        raise gate.WrongResultError("s1: somebody: 3 of 4 elements differ")

    monkeypatch.setattr(measure, "run", fail)
    out = tmp_path / "result.json"
    assert bench.run(options("--device", "cpu", "--out", str(out))) == 1
    assert "3 of 4 elements differ" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_killed_leaves_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(plan: Any, report: Any, keep: Callable[[Any], None]) -> None:
        row = Row("pack", True, median_us=2.0, low_us=1.0, high_us=3.0)
        keep(([], [Group("pack-c64", "pack", "1,64,8x8", None, None, [row])]))
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.run(options("--device", "cpu", "--out", str(tmp_path / "result.json")))
    (left,) = tmp_path.iterdir()
    assert left.name == ".result.partial.json"
    assert load(left).groups[0].rows[0].median_us == 2.0


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")
def test_compiled_peer_runs(monkeypatch: pytest.MonkeyPatch):
    group = run_group(monkeypatch, tiny_plan(names=["simulated-compiled", "conv2d-fp32"]))
    assert [row.error for row in group.rows] == [None, None]


def test_import_binop_does_not_import_the_benchmark():
    code = (
        "import sys, binop; sys.exit(any(name.startswith('binop.bench') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
