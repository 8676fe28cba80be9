"""The kernels that measure the peaks of 1-bit products: that they make all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from emulator import emulate
from test_plan import AMPERE, TURING
from test_plan_wgmma import H200

from binop._cuda import plan_peak
from binop._cuda.launches import Device
from binop._cuda.plan_peak import Peak
from binop.bench import peaks

_SMALL = Device((9, 0), 1, 232448, 233472)
_PEAKS = {"mma": plan_peak.mma_peak(_SMALL, 3), "wgmma": plan_peak.wgmma_peak(_SMALL, 2)}


@pytest.mark.parametrize("name", _PEAKS)
def test_sums_are_those_of_all_products(name: str, build: Path) -> None:
    peak = _PEAKS[name]
    assert peak is not None
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(-(2**31), 2**31, (peak.words,), generator=generator).to(torch.int32)
    out = torch.empty(peak.launch.blocks * peak.launch.threads, dtype=torch.int32)
    emulate(peak.launch, build, [words.data_ptr(), out.data_ptr()], 1)
    peaks.require_sums(peak, words, out)
    words[5] ^= 1 << 7
    with pytest.raises(RuntimeError, match=f"{name}_peak: expected sums of"):
        peaks.require_sums(peak, words, out)


def test_operations_are_two_for_each_pair_of_bits() -> None:
    assert plan_peak.mma_peak(_SMALL, 3).ops == 2 * 8 * 3 * 16 * (2 * 16 * 8 * 256)
    assert plan_peak.wgmma_peak(_SMALL, 2).ops == 2 * 2 * 8 * (2 * 64 * 256 * 256)


def test_the_best_instruction_of_a_device_is_its_peak() -> None:
    def kernels(device: Device) -> dict[str, str]:
        found: dict[str, tuple[Peak, str]] = peaks.of_device(device)
        return {name: peak.launch.kernel.entry for name, (peak, _) in found.items()}

    assert kernels(H200) == {"b1": "wgmma_peak", "b1 mma.sync": "mma_peak"}
    assert kernels(AMPERE) == {"b1": "mma_peak", "b1 mma.sync": "mma_peak"}
    assert kernels(TURING) == {}


@pytest.mark.cuda
def test_peaks_on_the_device() -> None:
    for _, ops, call, _ in peaks.calls(torch.device("cuda")):  # checks its sums
        assert ops > 0
        assert call().is_cuda
