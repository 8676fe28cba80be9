"""What the hardware can do at most, measured in the run that is compared with it.

A ceiling is the best of several rounds, not the median: noise only ever hides it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from binop.backends import cpu_obstacle
from binop.bench import peaks
from binop.bench.clocks import Call, Clock
from binop.bench.result import Ceiling

_ROUNDS = 5  # or, of long samples, as many as begin within a second
_SECONDS = 1.0

# Sizes past every cache, and past the launch overhead; the CPU's finish in tens of milliseconds.
_COPY_BYTES = {"cuda": 2**29, "cpu": 2**27}
_MATMUL_SIZE = {"cuda": 8192, "cpu": 1024}
_MATMUL_DTYPES = {
    "cuda": {"bf16": torch.bfloat16, "fp16": torch.float16},
    # Not bfloat16: torch's product of it is no ceiling where oneDNN has no kernel for the CPU.
    "cpu": {"fp32": torch.float32},
}


def measure(clock: Clock, device: torch.device, threads: int | None) -> Iterator[Ceiling]:
    """Copy bandwidth in bytes/s, and matrix products of floats and bits in operations/s. ``b1`` is
    the device's peak, others of bits are of one instruction."""
    moved, calls = _copies(device)
    seconds = min(_seconds(clock, call) for call in calls)
    source = f"copy or negation of {moved // 2 / 1e6:.0f} MB, the faster; read plus written"
    yield Ceiling("copy", moved / seconds, source, threads)
    size = _MATMUL_SIZE[device.type]
    for name, dtype in _MATMUL_DTYPES[device.type].items():
        rate = 2 * size**3 / _seconds(clock, _matmul(device, dtype, size))
        yield Ceiling(name, rate, f"torch matmul, {size} cubed, random values", threads)
    if peaks.available(device):
        for name, ops, call, source in peaks.calls(device):
            yield Ceiling(name, ops / _seconds(clock, call), source)
    if device.type == "cpu" and cpu_obstacle() is None:
        yield from _cpu_binary_peaks(threads or 1)


def _cpu_binary_peaks(threads: int) -> Iterator[Ceiling]:
    """Of the innermost instructions of the library's path, weights loaded from the first-level
    cache; where these are no population count, also of the usual one by nibbles."""
    from binop._cpu import library

    path = library.default_path()
    for name, usual, what in (("b1", False, "its own"), ("b1 usual", True, "nibble-shuffle")):
        rate = max(library.peak(usual, threads) for _ in range(_ROUNDS))
        if rate > 0:
            yield Ceiling(name, rate, f"{path} path: {what} instructions alone", threads)


def _copies(device: torch.device) -> tuple[int, list[Call]]:
    """Bytes moved, and two ways to move them: in a CUDA graph a copy is not a kernel but the
    driver's choice of an engine, which for large tensors ran at 2.7 of an H200's 4.2 TB/s."""
    size = _COPY_BYTES[device.type]
    if device.type == "cuda":
        size = min(size, torch.cuda.mem_get_info(device)[0] // 8)
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)

    def copy() -> Tensor:
        return target.copy_(source)

    def negate() -> Tensor:
        return torch.neg(source, out=target)

    return 2 * source.numel() * source.element_size(), [copy, negate]


def _matmul(device: torch.device, dtype: torch.dtype, size: int) -> Call:
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)

    def call() -> Tensor:
        return left @ right

    return call


def _seconds(clock: Clock, call: Call) -> float:
    sample = clock.prepare([call])
    times: list[float] = []
    start = time.perf_counter()
    while not times or (len(times) < _ROUNDS and time.perf_counter() - start < _SECONDS):
        sample.launch()
        clock.wait()
        times.append(sample.seconds())
    return min(times)
