"""The peaks of 1-bit arithmetic on a GPU: torch has no such matrix product, so that they are
measured by kernels of our own, which do nothing else (kernels/mma_peak.cu and wgmma_peak.cu)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from binop._cuda import plan_peak
from binop._cuda.launches import Device
from binop._cuda.plan_peak import Peak
from binop.backends import cuda_obstacle
from binop.bench.clocks import Call

# 32 lanes hold 16 rows and 256 bits of an operand: lane 4g + t of register 2h + r the word
# 4h + t of row g + 8r.
_GROUPS, _WORDS = 8, 4


def available(device: torch.device) -> bool:
    """Whether kernels of binop's own run on a device."""
    return device.type == "cuda" and cuda_obstacle(_index(device)) is None


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def of_device(facts: Device) -> dict[str, tuple[Peak, str]]:
    """By the ceiling's name (``b1`` is the device's best): how to reach it, and a description."""
    mma, wgmma = plan_peak.mma_peak(facts), plan_peak.wgmma_peak(facts)
    peaks = {}
    if wgmma is not None:
        peaks["b1"] = wgmma, "wgmma m64n256k256 b1 and.popc, one operand in registers, alone"
    if mma is not None:
        text = "mma.sync m16n8k256 b1 and.popc, operands in registers, alone"
        peaks.setdefault("b1", (mma, text))
        peaks["b1 mma.sync"] = mma, text
    return peaks


def calls(device: torch.device) -> Iterator[tuple[str, int, Call, str]]:
    """For every peak: the ceiling's name, operations of a call, the call (its sums are checked
    here), and a description."""
    from binop._cuda.launch import device_facts, prepare_launch

    index = _index(device)
    for name, (peak, what) in of_device(device_facts(index)).items():
        launch = peak.launch
        run = prepare_launch(launch, len(plan_peak.PEAK_POINTERS), index)
        words = torch.randint(-(2**31), 2**31, (peak.words,), device=device).to(torch.int32)
        out = torch.empty(launch.blocks * launch.threads, dtype=torch.int32, device=device)

        call = partial(_call, run, words, out)
        require_sums(peak, words, call())
        yield name, peak.ops, call, what


def _call(run: Callable[..., None], words: Tensor, out: Tensor) -> Tensor:
    run(words.data_ptr(), out.data_ptr())
    return out


def require_sums(peak: Peak, words: Tensor, out: Tensor) -> None:
    """Every warp's sums must add up to what the words say: a kernel that skipped products would
    raise the ceiling."""
    (rounds,) = peak.launch.sizes
    if peak.launch.kernel == plan_peak.MMA_PEAK:
        rows, columns = plan_peak.MMA_ROWS, plan_peak.MMA_COLUMNS
        a, b = words.split([4 * rows * 32, 2 * columns * 32])
        a_words = a.reshape(rows, 2, 2, _GROUPS, _WORDS).permute(1, 4, 0, 2, 3)
        b_words = b.reshape(columns, 2, _GROUPS, _WORDS).permute(1, 3, 0, 2)
    else:
        rounds *= plan_peak.WGMMA_PRODUCTS
        a, b = words.split([4 * 32, 8 * plan_peak.WGMMA_COLUMNS])
        a_words = a.reshape(2, 2, _GROUPS, _WORDS).permute(0, 3, 1, 2)
        b_words = b.reshape(2, plan_peak.WGMMA_COLUMNS, _WORDS).permute(0, 2, 1)
    expected = rounds * int((_set_bits(a_words) * _set_bits(b_words)).sum())
    totals = out.reshape(-1, 32).sum(1)
    if not bool((totals == expected).all()):
        wrong = totals[totals != expected][0].item()
        raise RuntimeError(f"{peak.launch.kernel.entry}: expected sums of {expected}, got {wrong}")


def _set_bits(words: Tensor) -> Tensor:
    """``[2, 4, ...]`` words, by their place in the depth: how often each of their bits is set."""
    bits = words.reshape(8, -1, 1) >> torch.arange(32, device=words.device) & 1
    return bits.sum(1)
