"""Who competes on a case: binop's ops and their peers, each as calls that are ready to time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from binop.bench import by_kernel, gate, networks, openvino_peer
from binop.bench.cases import ConvCase, Kind, NetworkCase, PackCase
from binop.bench.clocks import Call
from binop.bench.contender import Contender, Recipe
from binop.bench.operands import ConvOperands, PackOperands, copies
from binop.bench.work import conv_work, copy_work, pack_work

# Bytes beside the weights per output channel: a float32 scale; an int32 threshold and a flip.
_SCALE_BYTES = 4
_THRESHOLD_BYTES = 5

_ARITHMETIC = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def recipes(device_type: str, kind: Kind, extra: Sequence[str] = ()) -> tuple[Recipe, ...]:
    """The contenders for a kind of case, peers first, and those of ``EXTRA`` that it names and the
    device has."""
    if device_type == "cuda" and extra and by_kernel.mma_available():
        return recipes(device_type, kind) + tuple(EXTRA[name] for name in extra)
    if kind == "pack":
        return _PACK
    if kind == "network":
        return networks.RECIPES[device_type]
    peers = _CUDA_PEERS if device_type == "cuda" else _CPU_PEERS
    if device_type == "cpu" and openvino_peer.available():
        peers += (Recipe("openvino", False, _openvino),)
    if kind == "overhead":  # A compiled call measures Dynamo's guards, not an op.
        peers = tuple(recipe for recipe in peers if recipe.name != "simulated-compiled")
    return peers + _OURS


# Whom speed-ups refer to, by kind of device: the fastest of these on the case.
PEERS = {
    "cuda": ("conv2d-bf16", "float-compiled"),
    "cpu": ("conv2d-fp32", "conv2d-fp32-nchw", "float-compiled"),
}


def operands_for(
    case: ConvCase | PackCase | NetworkCase,
    device: torch.device,
    seed: int,
    cold_bytes: int,
    autotune: bool = False,
) -> ConvOperands | PackOperands | networks.NetworkOperands:
    """Random inputs: bfloat16 on CUDA, float32 on the CPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if isinstance(case, NetworkCase):
        return networks.NetworkOperands(case, device, dtype, seed, autotune)
    if isinstance(case, PackCase):
        return PackOperands(case, device, dtype, seed, cold_bytes)
    return ConvOperands(case, device, dtype, seed, cold_bytes)


def _calls(
    function: Callable[..., Tensor], x: Tensor, cold_bytes: int, *args: Any, **options: Any
) -> list[Call]:
    """Calls with everything bound: what they cost on the host is the op's own."""
    return [partial(function, copy, *args, **options) for copy in copies(x, cold_bytes)]


def _packed_to_packed(operands: ConvOperands) -> Contender:
    case = operands.case
    calls = _calls(
        torch.ops.binop.binary_conv2d_threshold,
        operands.packed_x,
        operands.cold_bytes,
        operands.packed_weight,
        case.c,
        operands.threshold,
        operands.flip,
        case.geometry.stride,
        case.geometry.padding,
        pad_value=case.pad_value,
    )

    def check(y: Tensor) -> None:
        reached = operands.dots >= operands.threshold.reshape(1, -1, 1, 1)
        bits = reached ^ operands.flip.reshape(1, -1, 1, 1)
        gate.require_bits(y, bits, f"{case.name}: packed-to-packed")

    work = conv_work(case.geometry, "packed", "packed", "packed", "b1", _THRESHOLD_BYTES)
    return Contender(calls, work, check)


def _packed_calls(operands: ConvOperands, function: Callable[..., Tensor], x: Tensor) -> list[Call]:
    case = operands.case
    return _calls(
        function,
        x,
        operands.cold_bytes,
        operands.packed_weight,
        case.c,
        operands.alpha,
        None,
        case.geometry.stride,
        case.geometry.padding,
        pad_value=case.pad_value,
        out_dtype=operands.dtype,
    )


def _packed_to_float(operands: ConvOperands) -> Contender:
    dtype = operands.dtype
    calls = _packed_calls(operands, torch.ops.binop.binary_conv2d_packed, operands.packed_x)
    work = conv_work(operands.case.geometry, "packed", "packed", dtype, "b1", _SCALE_BYTES)
    return Contender(calls, work, _scaled_check(operands, "packed-to-float"))


def _layer(operands: ConvOperands, name: str, channels_last: bool) -> Contender:
    def layer(x: Tensor, *args: Any, **options: Any) -> Tensor:
        return torch.ops.binop.binary_conv2d_packed(torch.ops.binop.pack(x), *args, **options)

    dtype = operands.dtype
    calls = _packed_calls(operands, layer, operands.x.cast(dtype, channels_last))
    work = conv_work(operands.case.geometry, dtype, "packed", dtype, "b1", _SCALE_BYTES)
    return Contender(calls, work, _scaled_check(operands, name))


def _float_to_float(operands: ConvOperands, name: str, channels_last: bool) -> Contender:
    case, dtype = operands.case, operands.dtype
    calls = _calls(
        torch.ops.binop.binary_conv2d,
        operands.x.cast(dtype, channels_last),
        operands.cold_bytes,
        operands.weight.cast(dtype, False),
        operands.scale_a,
        operands.scale_w,
        case.geometry.stride,
        case.geometry.padding,
        pad_value=case.pad_value,
    )
    work = conv_work(case.geometry, dtype, dtype, dtype, "b1", _SCALE_BYTES)
    return Contender(calls, work, _scaled_check(operands, name))


def _scaled_check(operands: ConvOperands, name: str) -> Callable[[Tensor], None]:
    def check(y: Tensor) -> None:
        gate.require_scaled(y, operands.dots, operands.alpha, f"{operands.case.name}: {name}")

    return check


def _float_conv(
    operands: ConvOperands,
    dtype: torch.dtype,
    channels_last: bool,
    function: Callable[..., Tensor] = F.conv2d,
) -> Contender:
    geometry = operands.case.geometry
    calls = _calls(
        function,
        operands.x.cast(dtype, channels_last),
        operands.cold_bytes,
        operands.weight.cast(dtype, channels_last),
        None,
        geometry.stride,
        geometry.padding,
    )
    return Contender(calls, conv_work(geometry, dtype, dtype, dtype, _ARITHMETIC[dtype]))


def _simulated(operands: ConvOperands, channels_last: bool, compiled: bool) -> Contender:
    """The usual stand-in for a binary convolution. It has no scale: less work than ours."""

    def simulated(x: Tensor, weight: Tensor, *args: Any) -> Tensor:
        return F.conv2d(torch.sign(x), torch.sign(weight), *args)

    # fullgraph: past Dynamo's recompile limit it raises rather than time the eager code.
    function = torch.compile(simulated, fullgraph=True, dynamic=False) if compiled else simulated
    return _float_conv(operands, operands.dtype, channels_last, function)


def _openvino(operands: ConvOperands) -> Contender:
    case, dtype = operands.case, operands.dtype
    x, weight = (values.cast(dtype, False) for values in (operands.x, operands.weight))
    call = openvino_peer.call(case, x, weight, operands.alpha)
    ours = _scaled_check(operands, "openvino")

    def check(y: Tensor) -> None:
        try:
            ours(y)
        except gate.WrongResultError as error:  # a failed row, not the end of the run
            raise RuntimeError(str(error)) from None

    work = conv_work(case.geometry, dtype, "packed", dtype, "b1", _SCALE_BYTES)
    return Contender([call], work, check)


def _pack(operands: PackOperands, name: str, channels_last: bool) -> Contender:
    def check(y: Tensor) -> None:
        bits = operands.x.cast(operands.dtype, channels_last) >= 0
        gate.require_bits(y, bits, f"{operands.case.name}: {name}")

    x = operands.x.cast(operands.dtype, channels_last)
    calls = _calls(torch.ops.binop.pack, x, operands.cold_bytes)
    return Contender(calls, pack_work(operands.case, operands.dtype), check)


def _copy(operands: PackOperands) -> Contender:
    x = operands.x.cast(operands.dtype, True)
    calls = _calls(torch.clone, x, operands.cold_bytes)
    return Contender(calls, copy_work(operands.case, operands.dtype))


def _float_to_float_recipe(name: str, channels_last: bool) -> Recipe:
    build = partial(_float_to_float, name=name, channels_last=channels_last)
    return Recipe(name, True, build)


def _pack_recipe(name: str, channels_last: bool) -> Recipe:
    return Recipe(name, True, partial(_pack, name=name, channels_last=channels_last))


def _conv2d_recipe(name: str, dtype: torch.dtype, channels_last: bool) -> Recipe:
    return Recipe(name, False, partial(_float_conv, dtype=dtype, channels_last=channels_last))


def _simulated_recipes(channels_last: bool) -> tuple[Recipe, ...]:
    eager = partial(_simulated, channels_last=channels_last, compiled=False)
    compiled = partial(_simulated, channels_last=channels_last, compiled=True)
    return Recipe("simulated", False, eager), Recipe("simulated-compiled", False, compiled)


_OURS = (
    Recipe("packed-to-packed", True, _packed_to_packed),
    Recipe("packed-to-float", True, _packed_to_float),
    # What PackedBinaryConv2d does: float activations, weights packed beforehand.
    Recipe("layer", True, partial(_layer, name="layer", channels_last=True)),
    Recipe("layer-nchw", True, partial(_layer, name="layer-nchw", channels_last=False)),
    _float_to_float_recipe("float-to-float", True),
    _float_to_float_recipe("float-to-float-nchw", False),
)
# What only some cases have.
EXTRA = {
    name: Recipe(name, True, partial(by_kernel.by_mma, build=build))
    for name, build in (
        ("packed-to-packed-mma", _packed_to_packed),
        ("packed-to-float-mma", _packed_to_float),
    )
}
_CUDA_PEERS = (
    _conv2d_recipe("conv2d-bf16", torch.bfloat16, True),
    _conv2d_recipe("conv2d-fp16", torch.float16, True),
    *_simulated_recipes(True),
)
_CPU_PEERS = (
    _conv2d_recipe("conv2d-fp32-nchw", torch.float32, False),
    _conv2d_recipe("conv2d-fp32", torch.float32, True),
    _conv2d_recipe("conv2d-bf16", torch.bfloat16, True),
    _conv2d_recipe("conv2d-bf16-nchw", torch.bfloat16, False),
    *_simulated_recipes(False),
)
_PACK = (
    Recipe("copy", False, _copy),
    _pack_recipe("pack", True),
    _pack_recipe("pack-nchw", False),
)


def require_names(device_type: str, names: Sequence[str] | None) -> None:
    """Raises ValueError for a name that no kind of case has a contender of."""
    known = [r.name for kind in ("layer", "pack", "network") for r in recipes(device_type, kind)]
    known += EXTRA if device_type == "cuda" else ()
    unknown = sorted(set(names or ()) - set(known))
    if unknown:
        raise ValueError(
            f"contenders: expected names out of {', '.join(known)}, got {', '.join(unknown)}"
        )
