"""Whole networks, compiled: binop's backend against the float peer and the float simulation.

The models are those of examples/models in a checkout. All contenders are compiled by Inductor
with freezing, in channels_last; on CUDA the clock captures them into CUDA graphs.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binop.bench.cases import NetworkCase
from binop.bench.contender import Contender, Recipe
from binop.bench.gate import WrongResultError
from binop.bench.work import Work
from binop.nn import BinaryConv2d

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"

# Share of images on which binop's decision must be Inductor's. Not all: where Triton contracts a
# multiply and an add, a value within a rounding of zero may take the other sign.
_LEAST_AGREEMENT = 0.98


def load(name: str, options: dict[str, Any]) -> nn.Module:
    """A model of the checkout, with BatchNorms as after training."""
    path = MODELS / f"{name}.py"
    if not path.is_file():
        raise ValueError(f"--networks: expected a checkout with {path}, found none")
    spec = importlib.util.spec_from_file_location(f"binop_example_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: nn.Module = module.build(**options)
    return model


class NetworkOperands:
    """The models and the input of a case, made once."""

    def __init__(
        self,
        case: NetworkCase,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
        autotune: bool = False,
    ) -> None:
        self.case = case
        self.autotune = autotune
        torch.manual_seed(seed)
        self._device, self._dtype = device, dtype
        x = torch.randn(case.n, 3, case.size, case.size)
        self.x = x.to(device, dtype).contiguous(memory_format=torch.channels_last)
        self.binary = self._prepare(load(case.model, case.options))
        self._reference: Tensor | None = None

    def _prepare(self, model: nn.Module) -> nn.Module:
        with torch.no_grad():
            for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0.0, 0.3)
            # Running statistics near those of the sums, which grow with their taps.
            model.train()
            model(torch.randn(2, 3, self.case.size, self.case.size))
        model = model.eval().to(self._device, self._dtype)
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def float_peer(self) -> nn.Module:
        """The named float network, else the same one with float convolutions."""
        if self.case.peer is not None:
            return self._prepare(load(self.case.peer, self.case.peer_options))
        return _replaced(self.binary, _as_float)

    def simulated(self) -> nn.Module:
        return _replaced(self.binary, _as_simulated)

    @property
    def reference(self) -> Tensor:
        """What Inductor alone makes of the binary network."""
        if self._reference is None:
            self._reference = compiled(self.binary, "inductor", self)(self.x)
        return self._reference


def _replaced(model: nn.Module, make: Callable[[BinaryConv2d], nn.Module]) -> nn.Module:
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, BinaryConv2d):
                setattr(parent, name, make(child))
    return model


def _as_float(layer: BinaryConv2d) -> nn.Module:
    with torch.device("meta"):
        conv = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            bias=layer.bias is not None,
        )
    conv.weight, conv.bias = layer.weight, layer.bias
    return conv


class _Simulated(nn.Module):
    """What one writes without binop: the signs as floats, through ``F.conv2d``."""

    def __init__(self, layer: BinaryConv2d) -> None:
        super().__init__()
        self.weight = layer.weight
        self.stride, self.padding = layer.stride, layer.padding
        self.scaled = layer.weight_scale == "mean"

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.sign(self.weight)
        if self.scaled:
            weight = weight * self.weight.abs().mean((1, 2, 3), keepdim=True)
        return F.conv2d(torch.sign(x), weight, None, self.stride, self.padding)


def _as_simulated(layer: BinaryConv2d) -> nn.Module:
    return _Simulated(layer)


def compiled(
    model: nn.Module,
    backend: str,
    operands: NetworkOperands,
    pack_devices: set[str] | None = None,
) -> Callable[[Tensor], Tensor]:
    """The compiled model, after its first call. ``pack_devices`` are those whose packs become
    part of pointwise kernels (default: the plugin's own choice)."""
    from torch._inductor import config

    from binop.inductor import fuse_pack

    # fullgraph: past Dynamo's recompile limit it raises rather than time the eager code.
    function: Callable[[Tensor], Tensor] = torch.compile(
        copy.deepcopy(model),
        backend=backend,
        fullgraph=True,
        dynamic=False,
        mode="max-autotune-no-cudagraphs" if operands.autotune else None,
    )
    chosen = fuse_pack.DEVICES
    fuse_pack.DEVICES = chosen if pack_devices is None else pack_devices
    try:
        # Without its cache: code is compiled for a number of threads, which is not in its key.
        with config.patch(freezing=True, fx_graph_cache=False):
            function(operands.x)
    finally:
        fuse_pack.DEVICES = chosen
    return function


def check(operands: NetworkOperands, name: str, logits: Tensor) -> None:
    """Raises WrongResultError where decisions differ from those of Inductor's own code."""
    wanted = operands.reference
    agreement = (logits.argmax(1) == wanted.argmax(1)).float().mean().item()
    if agreement < _LEAST_AGREEMENT:
        raise WrongResultError(
            f"{operands.case.name}: {name}: decides as backend='inductor' on {agreement:.1%} of "
            f"the images, expected at least {_LEAST_AGREEMENT:.0%}"
        )


def breakdown(call: Callable[[], Tensor]) -> list[dict[str, Any]]:
    """CUDA kernels of one call: name, launches and microseconds, most time first."""
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    rows = [
        {"kernel": event.key, "launches": event.count, "us": event.self_device_time_total}
        for event in profiler.key_averages()
        if event.self_device_time_total > 0
    ]
    return sorted(rows, key=lambda row: -float(row["us"]))


def _network(
    operands: NetworkOperands,
    name: str,
    model: Callable[[NetworkOperands], nn.Module],
    backend: str,
    pack_devices: set[str] | None = None,
) -> Contender:
    function = compiled(model(operands), backend, operands, pack_devices)
    gate = partial(check, operands, name) if backend == "binop" else None
    return Contender([partial(function, operands.x)], Work(0, 0, "none"), gate, by_kernel=True)


def _network_recipe(
    name: str,
    model: Callable[[NetworkOperands], nn.Module],
    backend: str = "inductor",
    pack_devices: set[str] | None = None,
) -> Recipe:
    build = partial(_network, name=name, model=model, backend=backend, pack_devices=pack_devices)
    return Recipe(name, backend == "binop", build)


RECIPES = (
    _network_recipe("float-compiled", NetworkOperands.float_peer),
    _network_recipe("simulated-compiled", NetworkOperands.simulated),
    # binop's ops without its graph passes.
    _network_recipe("inductor", lambda operands: operands.binary),
    # binop's passes, with pack as an op and as part of the pointwise kernels.
    _network_recipe("binop-pack-op", lambda operands: operands.binary, "binop", set()),
    _network_recipe(
        "binop-pack-inline", lambda operands: operands.binary, "binop", {"cpu", "cuda"}
    ),
)
