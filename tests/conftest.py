"""Fixtures, and the one place where tests are skipped, with the reason."""

from __future__ import annotations

import os

import pytest
import torch

import binop  # noqa: F401  (registers the ops)

if "PYTEST_XDIST_WORKER" in os.environ:
    # One process per core already: more threads only take turns.
    torch.set_num_threads(1)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_cuda = pytest.mark.skip(reason="torch sees no CUDA device")
    cpu_only = pytest.mark.skip(reason="float64 is a CPU dtype")
    for item in items:
        # Not `in item.keywords`: those hold the names of folders, too.
        if item.get_closest_marker("cuda") is None:
            continue
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        dtype = parameters.get("dtype", getattr(parameters.get("case"), "dtype", None))
        if not torch.cuda.is_available():
            item.add_marker(no_cuda)
        elif dtype is torch.float64 and parameters.get("device") == "cuda":
            item.add_marker(cpu_only)
