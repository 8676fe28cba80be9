"""Samples on a GPU: how many calls a graph holds, under which load it is timed, and whole runs."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from bench_runs import TINY, run_group, tiny_plan

from binop.bench import device_load, graph_clock
from binop.bench.cases import PackCase


@pytest.mark.parametrize(
    ("seconds", "output_bytes", "copies", "wanted"),
    [
        (10e-6, 2**30, 1, 4),  # huge outputs: as many as may be kept
        (10e-6, 10 * 2**20, 1, 100),  # a millisecond
        (100e-6, 2**20, 1, 120),  # twice the cache
        (1e-6, 2**10, 1, 512),  # tiny: the most
        (1.0, 2**10, 1, 2),  # slow: the fewest
        (10e-6, 10 * 2**20, 3, 102),  # whole turns of the inputs
    ],
)
def test_calls_per_graph(seconds: float, output_bytes: int, copies: int, wanted: int):
    assert graph_clock.calls_per_graph(seconds, output_bytes, 60 * 2**20, copies) == wanted


@pytest.mark.cuda
def test_cuda_run(monkeypatch: pytest.MonkeyPatch):
    for case in (TINY, PackCase("tiny-pack", 2, 33, 5)):
        group = run_group(monkeypatch, tiny_plan(case, "cuda"))
        assert [row.error for row in group.rows] == [None] * len(group.rows)
        assert all(row.rotated_bytes > 0 and row.calls_per_sample > 1 for row in group.rows)
        # Between idle and the fastest that any GPU runs at.
        assert all(200 < row.clock_mhz < 5000 for row in group.rows)


def test_a_sustained_sample_repeats_its_graph_before_and_in_it():
    replayed: list[None] = []
    load = device_load.Sustained.of(0.1)
    assert load.replays == 3
    load.lead_in(partial(replayed.append, None))
    assert len(replayed) == 3
    assert device_load.Sustained.of(20.0).replays == 1


@pytest.mark.cuda
def test_sustained_run(monkeypatch: pytest.MonkeyPatch):
    names = ["conv2d-bf16", "packed-to-packed"]
    group = run_group(monkeypatch, tiny_plan(TINY, "cuda", sustained=True, names=names))
    assert [row.error for row in group.rows] == [None, None]


@pytest.mark.cuda
def test_failed_capture_leaves_the_device_usable():
    clock = graph_clock.GraphClock(torch.device("cuda"))
    x = torch.ones(4, device="cuda")
    stream = torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        clock.prepare([lambda: x * x.sum().item()])  # synchronizes: not capturable
    assert torch.cuda.current_stream() == stream
    sample = clock.prepare([partial(torch.add, x, 1)])
    assert all(torch.equal(output, x + 1) for output in sample.rehearse())
