"""Small runs of the benchmark, and a made-up result of one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from binop.bench import contenders, measure, work
from binop.bench.cases import ConvCase, NetworkCase, PackCase
from binop.bench.result import Ceiling, Group, Result, Row
from binop.bench.verdict import judge

TINY = ConvCase("tiny", "layer", 2, 33, 5, 35, stride=2)  # tails in words, and a border


def tiny_plan(
    case: ConvCase | PackCase | NetworkCase = TINY, device: str = "cpu", **changes: object
) -> measure.Plan:
    """A few rounds of one case, without the compiled peer, which takes seconds, and without
    OpenVINO, which is wrong where channels do not fill its blocks."""
    slow_or_wrong = ("simulated-compiled", "openvino")
    names = [r.name for r in contenders.recipes(device, case.kind) if r.name not in slow_or_wrong]
    plan = measure.Plan(torch.device(device), (case,), 3, 1.0, 0, names)
    return dataclasses.replace(plan, **changes)


def run_group(monkeypatch: pytest.MonkeyPatch, plan: measure.Plan) -> Group:
    """The group of the plan's one case, without ceilings, on one thread."""
    monkeypatch.setattr(measure.ceilings, "measure", lambda *_: ())
    monkeypatch.setattr(measure, "_thread_counts", lambda _: [1])
    _, (group,) = measure.run(plan, lambda _: None)
    return group


def made_up_result() -> Result:
    """A made-up run of a made-up device; one contender failed."""
    layer = work.conv_work(ConvCase("s1", "layer", 256, 64, 56, 64).geometry, *["packed"] * 3, "b1")
    rows = [
        Row("conv2d-bf16", False, 2 * 10**8, 10**11, "bf16", 100.0, 99.0, 102.0, 50, 10, 10**9),
        Row("packed-to-packed", True, layer.bytes, layer.ops, "b1", 20.0, 19.0, 22.0, 50, 40),
        Row("packed-to-float", True, error="RuntimeError: no | kernel"),
    ]
    pack = [Row("pack", True, 4 * 10**8, 0, "none", 125.0, 124.0, 126.0, 50, 20, 10**9)]
    rows[1] = dataclasses.replace(rows[1], rotated_bytes=10**9, clock_mhz=1950.0)
    ceilings = [Ceiling("copy", 4e12, "made up"), Ceiling("b1", 10e15, "made up")]
    groups = [
        Group("s1", "layer", "256,64,56x56 -> 64, 3x3", None, None, rows),
        Group("pack-c64", "pack", "256,64,56x56", None, None, pack),
    ]
    groups = [judge(group, ceilings, ("conv2d-bf16",)) for group in groups]
    machine = {"device": "Made-Up 1", "kind": "cuda", "driver": None}
    return Result("made-up-1", "2026-01-01", machine, {"commit": "abc"}, ceilings, groups)
