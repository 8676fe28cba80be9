"""Which kernel convolves, and why. No tensors and no CuPy here."""

from __future__ import annotations

from dataclasses import replace

from binop._cuda import tuned
from binop._cuda.choice import Choice, forced_choice
from binop._cuda.conv_call import ConvCall, out_pixels
from binop._cuda.conv_kernels import CONV_KERNELS, plan_choice, why_not_choice
from binop._cuda.launches import Device, Launch
from binop._cuda.plan_mma import why_not_mma
from binop._cuda.plan_simt import plan_simt
from binop._cuda.plan_wgmma import wgmma_cycles, why_not_wgmma
from binop._cuda.plan_wgmma_in_place import wgmma_in_place_cycles, why_not_wgmma_in_place
from binop._cuda.plan_wgmma_rows import wgmma_rows_cycles, why_not_wgmma_rows
from binop.geometry import Conv2dGeometry

_WIDE = {
    "conv_wgmma": (why_not_wgmma, wgmma_cycles),
    "conv_wgmma_in_place": (why_not_wgmma_in_place, wgmma_in_place_cycles),
    "conv_wgmma_rows": (why_not_wgmma_rows, wgmma_rows_cycles),
}


def plan_conv(
    geometry: Conv2dGeometry, call: ConvCall, device: Device, choice: Choice | None = None
) -> Launch | None:
    """``None`` stands for nothing to do.

    An explicit ``choice`` (or one that ``binop._cuda.choice`` forces) goes before the table of
    measured choices, and that before the heuristic.

    Raises:
        ValueError: an explicit choice cannot convolve this.
    """
    if out_pixels(geometry) * geometry.out_channels == 0:
        return None
    explicit = choice or forced_choice()
    if explicit is not None:
        return plan_choice(geometry, call, device, explicit)
    measured = tuned.find(geometry, call, device)
    # A table may be older than the tiles.
    if measured is not None and why_not_choice(geometry, call, device, measured) is None:
        launch = plan_choice(geometry, call, device, measured)
        return replace(launch, reason=f"tuned: {launch.reason}")
    return _plan_by_estimate(geometry, call, device)


def why_no_residual_sum(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> str | None:
    """Why no kernel makes both outputs of a ``call`` with a residual sum."""
    obstacle = why_not_wgmma(geometry, call, device)
    if obstacle is None or why_not_wgmma_rows(geometry, call, device) is None:
        return None
    return obstacle


def plan_residual_sum(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> Launch:
    """For what ``why_no_residual_sum`` finds no fault with. By estimate: nothing else is measured
    for it, or can be chosen."""
    return _plan_by_estimate(geometry, call, device)


def _wide_estimates(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> dict[str, float]:
    """About how many cycles the kernels on warpgroup-wide products need, as far as they take a
    call."""
    return {
        name: cycles(geometry, call, device)
        for name, (why_not, cycles) in _WIDE.items()
        if why_not(geometry, call, device) is None
    }


def _kernel_by_estimate(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> str:
    estimates = _wide_estimates(geometry, call, device)
    if estimates:
        return min(estimates, key=estimates.__getitem__)
    return "conv_mma" if why_not_mma(geometry, call, device) is None else "conv_simt"


def _plan_by_estimate(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> Launch:
    kernel = _kernel_by_estimate(geometry, call, device)
    if kernel == "conv_simt":
        return plan_simt(geometry, call, why_not_mma(geometry, call, device) or "")
    return CONV_KERNELS[kernel].plan(geometry, call, device, None)


def choice_by_estimate(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> Choice:
    """What the heuristic takes where no table and nobody says otherwise."""
    kernel = _kernel_by_estimate(geometry, call, device)
    tiles = CONV_KERNELS[kernel].tiles(geometry, call, device)
    best = min(tiles, key=lambda item: item[1], default=None)
    return Choice(kernel, None if best is None else best[0])
