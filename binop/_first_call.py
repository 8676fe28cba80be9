"""``python -m binop first-call``: what an op's first call costs a process, in fresh processes.

The parts, in order: importing CuPy (which the first CUDA tensor makes binop do), the first call of
``binary_conv2d`` in a process where torch and CuPy are imported and the device is set up, and a
first call with other shapes, whose kernels are loaded already.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_COLUMNS = {
    "import_cupy": "import cupy",
    "first_call": "first call",
    "next_shapes": "other shapes",
}


def run() -> int:
    import torch

    if not torch.cuda.is_available():
        print("first-call: torch sees no CUDA device", file=sys.stderr)
        return 2
    print("seconds     " + "".join(f"{title:>14}" for title in _COLUMNS.values()))
    with tempfile.TemporaryDirectory() as cache:
        for name in ("compiling", "cached", "cached"):
            seconds = in_a_process(Path(cache))
            print(f"{name:<12}" + "".join(f"{seconds[part]:>14.3f}" for part in _COLUMNS))
    return 0


def start(cache: Path) -> subprocess.Popen[str]:
    """A process that prints its measurements as JSON."""
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "BINOP_CACHE_DIR": str(cache), "PYTHONPATH": path}
    command = [sys.executable, "-m", "binop._first_call"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, float]:
    out, _ = process.communicate(timeout=240)
    if process.returncode != 0:
        raise RuntimeError(f"binop: the measured process failed with {process.returncode}")
    return json.loads(out)


def in_a_process(cache: Path) -> dict[str, float]:
    return finish(start(cache))


def _measure() -> dict[str, float]:
    import torch

    def tensors(channels: int) -> list[torch.Tensor]:
        x = torch.randn(2, channels, 8, 8, device="cuda", dtype=torch.bfloat16)
        return [x, torch.randn(channels, channels, 3, 3, device="cuda"), one, one]

    one = torch.ones((), device="cuda")
    operands, others = tensors(64), tensors(96)
    torch.cuda.synchronize()
    marks = [time.perf_counter()]
    import cupy  # noqa: F401

    marks.append(time.perf_counter())
    import binop  # noqa: F401

    op = torch.ops.binop.binary_conv2d
    before = time.perf_counter()
    out = op(*operands, padding=(1, 1))
    torch.cuda.synchronize()
    marks.append(time.perf_counter())
    op(*others, padding=(1, 1))
    torch.cuda.synchronize()
    marks.append(time.perf_counter())
    wanted = op(*(tensor.cpu() for tensor in operands), padding=(1, 1))
    if not torch.equal(out.cpu(), wanted):
        raise RuntimeError("binop: the first call and the reference differ")
    return {
        "import_cupy": marks[1] - marks[0],
        "first_call": marks[2] - before,
        "next_shapes": marks[3] - marks[2],
    }


if __name__ == "__main__":
    print(json.dumps(_measure()))
