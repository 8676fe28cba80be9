"""Where a run took place: hardware, versions, and the commit that was measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from binop._version import __version__
from binop.backends import cpu_obstacle

_PACKAGE = Path(__file__).resolve().parents[1]


def device_name(device: torch.device) -> str:
    """The marketing name of the GPU or the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe(device: torch.device) -> dict[str, Any]:
    """Facts about hardware and software, by name; what cannot be found out is None."""
    facts: dict[str, Any] = {
        "device": device_name(device),
        "kind": device.type,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cupy": _version("cupy-cuda13x", "cupy-cuda12x", "cupy"),
        "binop": __version__,
    }
    if device.type == "cpu":
        return facts | {
            "vectors": torch.backends.cpu.get_cpu_capability(),
            "path": _path(),
            "openvino": _version("openvino"),
        }
    properties = torch.cuda.get_device_properties(device)
    return facts | {
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "capability": f"sm_{properties.major}{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "memory_bytes": properties.total_memory,
    }


def _path() -> str | None:
    """The path of binop's CPU library; None where there is no library."""
    if cpu_obstacle() is not None:
        return None
    from binop._cpu import library

    return library.default_path()


def commit(stated: str | None) -> dict[str, Any]:
    """Commit of the checkout and whether files differ from it.

    ``stated`` (as ``git describe --always --dirty`` prints it) stands in on machines that got
    the files without their history.
    """
    if stated is not None:
        dirty = stated.endswith("-dirty")
        return {"commit": stated.removesuffix("-dirty"), "dirty": dirty, "commit_from": "option"}
    # The root must be the checkout's own: an installed binop may lie inside another one.
    root = _output("git", "-C", str(_PACKAGE), "rev-parse", "--show-toplevel")
    if root is None or Path(root) != _PACKAGE.parent:
        return {"commit": None, "dirty": None, "commit_from": None}
    changes = _output("git", "-C", root, "status", "--porcelain")
    return {
        "commit": _output("git", "-C", root, "rev-parse", "HEAD"),
        "dirty": changes != "",
        "commit_from": "git",
    }


def _version(*distributions: str) -> str | None:
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _output(*command: str) -> str | None:
    """What a command prints (its first line for several devices' sake), None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
