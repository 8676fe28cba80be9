"""Distributed data parallel: processes that share a batch train as one that sees all of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

import binop

_PROCESSES = 2
_STEPS = 3


def _model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        binop.nn.BinaryConv2d(16, 40, 3, padding=1),
        binop.nn.BinaryConv2d(40, 8, 3, stride=2),
        nn.Flatten(),
        nn.Linear(8 * 9, 5),
    )


def _batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(2 * _PROCESSES, 16, 8, 8, generator=generator) for _ in range(_STEPS)]


def _train(model: nn.Module, batches: list[Tensor]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for batch in batches:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()


def _parameters(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().cpu() for parameter in model.parameters()]


def _work(rank: int, device: str, folder: str) -> None:
    """A process: its part of every batch, on a device of its own where there are so many."""
    devices = torch.cuda.device_count() if device == "cuda" else 0
    if devices:
        torch.cuda.set_device(rank % devices)
    distributed.init_process_group(
        # NCCL takes no device twice.
        "nccl" if devices >= _PROCESSES else "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=_PROCESSES,
        timeout=timedelta(seconds=120),
    )
    model = DistributedDataParallel(_model().to(device))
    _train(model, [batch.chunk(_PROCESSES)[rank].to(device) for batch in _batches()])
    torch.save(_parameters(model), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_processes_train_as_one(device: str, tmp_path: Path) -> None:
    multiprocessing.spawn(_work, (device, str(tmp_path)), _PROCESSES)
    of_ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(_PROCESSES)]
    for first, second in zip(*of_ranks, strict=True):
        assert torch.equal(first, second)
    before = _parameters(_model())
    alone = _model().to(device)
    _train(alone, [batch.to(device) for batch in _batches()])
    for got, wanted, start in zip(of_ranks[0], _parameters(alone), before, strict=True):
        assert not torch.equal(got, start)
        # Means of means are summed in another order.
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
