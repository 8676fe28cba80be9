"""Whole networks, compiled: binop's backend against the float peer and the float simulation.

The models are those of examples/models in a checkout. All contenders are compiled by Inductor
with freezing, in channels_last; on CUDA the clock captures them into CUDA graphs.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binop import residual, stem
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
        x = _on_grid(torch.randn(case.n, 3, case.size, case.size), 2)
        self.x = x.to(device, dtype).contiguous(memory_format=torch.channels_last)
        self.binary = self._prepare(load(case.model, case.options))
        self._by_inductor: Callable[[Tensor], Tensor] | None = None
        self._reference: Tensor | None = None

    def _prepare(self, model: nn.Module) -> nn.Module:
        model = model.to(self._device)
        with torch.no_grad():
            for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0.0, 0.3)
            # Running statistics near those of the sums, which grow with their taps.
            model.train()
            model(torch.randn(2, 3, self.case.size, self.case.size).to(self._device))
        first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
        first.weight.data = _on_grid(first.weight.data, 9)
        model = model.eval().to(self._dtype)
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def has_stem(self) -> bool:
        """Whether the plugin has a kernel for the first convolution."""
        on_cuda = self._device.type == "cuda" and self._dtype is not torch.float32
        return on_cuda and torch.cuda.current_device() in stem.cuda_devices()

    def float_peer(self) -> nn.Module:
        """The named float network, else the same one with float convolutions."""
        if self.case.peer is not None:
            return self._prepare(load(self.case.peer, self.case.peer_options))
        return _replaced(self.binary, _as_float)

    def simulated(self) -> nn.Module:
        return _replaced(self.binary, _as_simulated)

    @property
    def by_inductor(self) -> Callable[[Tensor], Tensor]:
        """The binary network as Inductor alone compiles it."""
        if self._by_inductor is None:
            self._by_inductor = compiled(self.binary, "inductor", self)
        return self._by_inductor

    @property
    def reference(self) -> Tensor:
        """Its output."""
        if self._reference is None:
            self._reference = self.by_inductor(self.x)
        return self._reference


def _on_grid(values: Tensor, bits: int) -> Tensor:
    """Rounded to so many bits after the point. Sums of products of such images and filters are
    exact in float32, whatever their order: kernels with different orders can be compared."""
    return (values * 2**bits).round() / 2**bits


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


@dataclass(frozen=True)
class Rewrites:
    """Kinds of devices where the plugin makes packs part of pointwise kernels, residual sums part
    of convolutions, and the first convolution a kernel of its own; None: its own choice."""

    pack: frozenset[str] | None = None
    residual: frozenset[str] | None = None
    stem: frozenset[str] | None = None

    @contextmanager
    def chosen(self) -> Iterator[None]:
        from binop.inductor import fuse_pack, fuse_residual, fuse_stem

        own = fuse_pack.DEVICES, fuse_residual.DEVICES, fuse_stem.DEVICES
        if self.pack is not None:
            fuse_pack.DEVICES = set(self.pack)
        if self.residual is not None:
            fuse_residual.DEVICES = set(self.residual)
        if self.stem is not None:
            fuse_stem.DEVICES = set(self.stem)
        try:
            yield
        finally:
            fuse_pack.DEVICES, fuse_residual.DEVICES, fuse_stem.DEVICES = own


_OWN_CHOICE = Rewrites()


def compiled(
    model: nn.Module, backend: str, operands: NetworkOperands, rewrites: Rewrites = _OWN_CHOICE
) -> Callable[[Tensor], Tensor]:
    """The compiled model, after its first call."""
    from torch._inductor import config

    # fullgraph: past Dynamo's recompile limit it raises rather than time the eager code.
    function: Callable[[Tensor], Tensor] = torch.compile(
        copy.deepcopy(model),
        backend=backend,
        fullgraph=True,
        dynamic=False,
        mode="max-autotune-no-cudagraphs" if operands.autotune else None,
    )
    # Without its cache: code is compiled for a number of threads, which is not in its key.
    with rewrites.chosen(), config.patch(freezing=True, fx_graph_cache=False):
        function(operands.x)
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


def check_kernels(
    operands: NetworkOperands, function: Callable[[Tensor], Tensor], name: str, logits: Tensor
) -> None:
    """Raises WrongResultError where the kernels of the first convolution and of residual sums do
    not make what torch and the other ops do, with all else the same.

    Not against Inductor's own code, which folds the first BatchNorm into filters of 16 bits, and
    contracts multiplications and additions: in a network that was never trained, a last bit decides
    signs, and these all that follows."""
    with stem.composed(), residual.composed():
        wanted = function(operands.x)
    if not torch.equal(logits, wanted):
        raise WrongResultError(
            f"{operands.case.name}: {name}: not the logits of the same network with its first "
            "convolution computed by torch and its residual sums by the other ops"
        )


def breakdown(call: Callable[[], Tensor]) -> list[dict[str, Any]]:
    """CUDA kernels of one call: name, launches and microseconds, most time first."""
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        call()
        torch.cuda.synchronize()
    rows = [
        {"kernel": event.key, "launches": event.count, "us": event.self_device_time_total}
        for event in profiler.key_averages()
        if event.self_device_time_total > 0
    ]
    return sorted(rows, key=lambda row: -float(row["us"]))


AS_IT_IS = "binop"
WITHOUT_STEM = "binop-without-stem"
WITH_RESIDUAL = "binop-residual"


def _contender(
    operands: NetworkOperands, name: str, function: Callable[[Tensor], Tensor]
) -> Contender:
    gate: Callable[[Tensor], None] | None = None
    if name in (AS_IT_IS, WITH_RESIDUAL) or (
        name.startswith("binop") and name != WITHOUT_STEM and operands.has_stem
    ):
        gate = partial(check_kernels, operands, function, name)
    elif name.startswith("binop"):
        gate = partial(check, operands, name)
    return Contender([partial(function, operands.x)], Work(0, 0, "none"), gate, by_kernel=True)


def _recipe(name: str, make: Callable[[NetworkOperands], Callable[[Tensor], Tensor]]) -> Recipe:
    return Recipe(
        name,
        name.startswith("binop"),
        lambda operands: _contender(operands, name, make(operands)),
    )


def _by_binop(
    name: str, pack: Iterable[str], residual: Iterable[str], stem: Iterable[str] | None = None
) -> Recipe:
    of_stem = None if stem is None else frozenset(stem)
    rewrites = Rewrites(frozenset(pack), frozenset(residual), of_stem)
    return _recipe(name, lambda operands: compiled(operands.binary, "binop", operands, rewrites))


_EVERYWHERE = ("cpu", "cuda")
_EVERY_RECIPE = (
    _recipe("float-compiled", lambda o: compiled(o.float_peer(), "inductor", o)),
    _recipe("simulated-compiled", lambda o: compiled(o.simulated(), "inductor", o)),
    # binop's ops without its graph passes.
    _recipe("inductor", lambda operands: operands.by_inductor),
    # binop's passes, with pack as an op and as part of the pointwise kernels.
    _by_binop("binop-pack-op", (), ()),
    _by_binop("binop-pack-inline", _EVERYWHERE, ()),
)
RECIPES = {
    "cpu": (
        *_EVERY_RECIPE,
        # With residual sums made by the library, where the backend leaves them to Inductor.
        _by_binop(WITH_RESIDUAL, (), _EVERYWHERE),
    ),
    "cuda": (
        *_EVERY_RECIPE,
        # With a library's first convolution.
        _by_binop(WITHOUT_STEM, _EVERYWHERE, (), ()),
        # And with the one kernel for a convolution and its residual sum, where there is one.
        _by_binop(AS_IT_IS, _EVERYWHERE, _EVERYWHERE),
    ),
}
