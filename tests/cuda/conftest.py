"""The backend's ops: on a device (importing them needs CuPy and a torch that is built with CUDA),
and emulated on the CPU."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from emulator import emulated_ops
from machine_code import MachineCode, kept_in

from binop._cuda import tuned
from binop._cuda.launches import Device, Launch


@pytest.fixture(scope="session")
def ops() -> ModuleType:
    return importlib.import_module("binop._cuda.ops")


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("emulated")


@pytest.fixture(scope="session")
def machine_code(tmp_path_factory: pytest.TempPathFactory) -> MachineCode:
    base = tmp_path_factory.getbasetemp()
    # pytest-xdist gives each worker a folder in that of the run.
    return kept_in((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "machine_code")


@pytest.fixture
def launched() -> list[Launch]:
    return []


@pytest.fixture(autouse=True)
def untuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured on a GPU and committed must not decide tests of the heuristic."""
    monkeypatch.setattr(tuned, "_table", dict)


@pytest.fixture
def hopper(build: Path, launched: list[Launch]) -> Iterator[ModuleType]:
    with emulated_ops(Device((9, 0), 132, 232448, 233472), build, launched) as ops:
        yield ops


@pytest.fixture
def ampere(build: Path, launched: list[Launch]) -> Iterator[ModuleType]:
    with emulated_ops(Device((8, 0), 108, 166912, 167936), build, launched) as ops:
        yield ops
