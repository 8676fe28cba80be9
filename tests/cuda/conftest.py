"""The backend's ops; importing them needs CuPy and a torch that is built with CUDA."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def ops() -> ModuleType:
    return importlib.import_module("binop._cuda.ops")
