"""Fixtures, and the one place where tests are skipped, with the reason."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator

import pytest
import torch
from cpu_backends import CPU_BACKENDS, CPU_PATHS, obstacle, serve_cpu_by

import binop  # noqa: F401  (registers the ops)

if "PYTEST_XDIST_WORKER" in os.environ:
    # One process per core already: more threads only take turns.
    torch.set_num_threads(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of a device run on each; those marked ``every_backend`` on all that serves the CPU."""
    marks = list(metafunc.definition.iter_markers("parametrize"))
    if "device" not in metafunc.fixturenames or any("device" in mark.args[0] for mark in marks):
        return
    every = metafunc.definition.get_closest_marker("every_backend") is not None
    cuda = pytest.param("cuda", marks=pytest.mark.cuda)
    metafunc.parametrize("device", [*(CPU_BACKENDS if every else ["cpu"]), cuda], indirect=True)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param not in CPU_BACKENDS:
        yield request.param
        return
    with serve_cpu_by(request.param):
        yield "cpu"


@pytest.fixture(params=CPU_PATHS)
def cpu_path(request: pytest.FixtureRequest) -> Iterator[str]:
    """The path of the CPU library that computes meanwhile."""
    with serve_cpu_by(request.param):
        yield request.param


@pytest.fixture(params=CPU_BACKENDS)
def cpu_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """What serves CPU tensors meanwhile, by name."""
    with serve_cpu_by(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        obstacles = (
            _cuda_obstacle,
            _cpu_obstacle,
            _aarch64_obstacle,
            _code_obstacle,
            _peer_obstacle,
        )
        reason = next(filter(None, (why(item) for why in obstacles)), None)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


def _parameters(item: pytest.Item) -> dict[str, object]:
    return getattr(getattr(item, "callspec", None), "params", {})


def _cuda_obstacle(item: pytest.Item) -> str | None:
    # Not `in item.keywords`: those hold the names of folders, too.
    if item.get_closest_marker("cuda") is None:
        return None
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    parameters = _parameters(item)
    dtype = parameters.get("dtype", getattr(parameters.get("case"), "dtype", None))
    on_cuda = parameters.get("device") == "cuda"
    return "float64 is a CPU dtype" if on_cuda and dtype is torch.float64 else None


def _cpu_obstacle(item: pytest.Item) -> str | None:
    parameters = _parameters(item)
    names = (parameters.get(name) for name in ("cpu_backend", "cpu_path", "device"))
    return next((obstacle(name) for name in names if name in CPU_BACKENDS), None)


def _aarch64_obstacle(item: pytest.Item) -> str | None:
    if item.get_closest_marker("aarch64") is None:
        return None
    for tools in (("aarch64-linux-gnu-g++",), ("qemu-aarch64-static", "qemu-aarch64")):
        if not any(map(shutil.which, tools)):
            return f"needs {tools[0]} to build for and emulate aarch64"
    return None


def _code_obstacle(item: pytest.Item) -> str | None:
    if item.get_closest_marker("x86_code") is None:
        return None
    if platform.machine() != "x86_64":
        return "reads machine code of x86-64"
    return None if shutil.which("objdump") else "needs objdump to read machine code"


def _peer_obstacle(item: pytest.Item) -> str | None:
    if item.get_closest_marker("openvino") is None or importlib.util.find_spec("openvino"):
        return None
    return "OpenVINO is not installed"


_OBSTACLES = (_cuda_obstacle, _cpu_obstacle, _aarch64_obstacle, _code_obstacle, _peer_obstacle)
