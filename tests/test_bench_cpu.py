"""The benchmark on the CPU: its peers, its peaks, and the tables that compare them."""

from __future__ import annotations

import pytest
import torch

from binop.bench import ceilings, cpu_tables, measure
from binop.bench.cases import ConvCase
from binop.bench.result import Ceiling, Group, Result, Row


@pytest.mark.openvino
@pytest.mark.parametrize("pad_value", [-1, 0, 1])
def test_openvino_computes_the_same(monkeypatch: pytest.MonkeyPatch, pad_value: int):
    case = ConvCase("even", "layer", 2, 64, 9, 32, stride=2, pad_value=pad_value)
    names = ["openvino", "layer-nchw"]
    monkeypatch.setattr(measure.ceilings, "measure", lambda *_: ())
    monkeypatch.setattr(measure, "_thread_counts", lambda _: [1])
    plan = measure.Plan(torch.device("cpu"), (case,), 3, 1.0, 0, names)
    _, (group,) = measure.run(plan, lambda _: None)
    assert {row.contender: row.error for row in group.rows} == dict.fromkeys(names)


def test_the_peak_is_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ceilings, "_ROUNDS", 1)
    found = {ceiling.name: ceiling for ceiling in ceilings._cpu_binary_peaks(2)}
    assert found["b1"].value > 1e9
    assert found["b1"].threads == 2


def _group(case: str, threads: int, times: dict[str, float]) -> Group:
    rows = [
        Row(name, name.startswith(("layer", "packed")), 1, 10**9, "b1", us)
        for name, us in times.items()
    ]
    return Group(case, "layer", "1,64,8x8 -> 64, 3x3", threads, None, rows)


@pytest.fixture
def result() -> Result:
    groups = [
        _group(
            "a",
            1,
            {
                "conv2d-fp32": 1000.0,
                "conv2d-fp32-nchw": 800.0,
                "openvino": 150.0,
                "layer-nchw": 100.0,
                "packed-to-packed": 1000.0,
            },
        ),
        _group("b", 1, {"conv2d-fp32": 1600.0, "openvino": 600.0, "layer-nchw": 100.0}),
        _group("a", 2, {"conv2d-fp32": 400.0}),
    ]
    peaks = [Ceiling("b1", 2e12, "made up", 1)]
    return Result("made-up", "2026-01-01", {"kind": "cpu"}, {}, peaks, groups)


def test_layers_stand_beside_their_peers(result: Result):
    shape = "1,64,8x8 -> 64, 3x3"
    assert cpu_tables.layers(result).rows == [
        ["a", shape, "1", "800 (8.00x)", "-", "-", "150 (1.50x)", "100", "1000 (50%)"],
        ["b", shape, "1", "1600 (16.0x)", "-", "-", "600 (6.00x)", "100", "-"],
        ["a", shape, "2", "400", "-", "-", "-", "-", "-"],
    ]


def test_means_are_geometric(result: Result):
    assert cpu_tables.means(result).rows == [
        ["conv2d fp32", "1", "11.3x", "8.00x"],
        ["OpenVINO", "1", "3.00x", "1.50x"],
    ]


def test_gpus_have_no_such_tables(result: Result):
    result.machine["kind"] = "cuda"
    assert cpu_tables.layers(result).rows == cpu_tables.means(result).rows == []
