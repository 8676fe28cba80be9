"""The float convolution at the start of a network, with what follows it: ``stem_conv2d`` (bias,
BatchNorm, ReLU), or ``stem_conv2d_threshold`` where only signs of its output are read.

Bits are found by evaluation, as thresholds of binary convolutions are: the chain from the
convolution to the sign runs on every value of the 16-bit dtype, per output channel. Where those
that give a 1 are neighbours, they are the interval of the op, with infinities, zeros of both signs
and NaN as the chain has them. (A factor of zero gives NaN of infinity, so that its interval has two
ends.)

Only with freezing. The kernel sums in another order than a library, and with freezing Inductor's
own folding of BatchNorms has given up the last bits of float convolutions already.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._inductor import config
from torch.fx import Graph, Node

from binop.inductor import report
from binop.inductor.chain import Chain, find_chain
from binop.inductor.constants import Constants
from binop.inductor.evaluate import BLOCK_VALUES, Evaluator, sign_decisions
from binop.inductor.fuse_residual import find_norm, only_user, rows
from binop.inductor.graph import arguments, call, constant, is_op, replace, value
from binop.inductor.lower_conv import same_strides
from binop.stem import cuda_devices, is_stem, obstacle

NAME = "first convolution"
_ops = torch.ops.binop
_aten = torch.ops.aten
_CONVERT = torch.ops.prims.convert_element_type.default
_HALVES = (torch.float16, torch.bfloat16)

# Kinds of devices where the ops are used. Part of the pass's identity for caches.
DEVICES: set[str] = {"cuda"}


def run(graph: Graph, constants: Constants) -> None:
    for node in list(graph.nodes):
        if is_op(node, _aten.convolution.default) and value(node).device.type in DEVICES:
            if not is_stem(value(arguments(node)["weight"])):
                continue
            reason = _unsuitable(node)
            if reason is None:
                reason = _fuse_bits(graph, node, constants)
                if reason is not None:
                    reason = _fuse_floats(graph, node, reason)
            if reason is not None:
                report.left(NAME, node, reason)


def identity() -> tuple[Any, ...]:
    """What the rewrite depends on beside the graph."""
    return tuple(sorted(DEVICES)), cuda_devices() if "cuda" in DEVICES else ()


def _unsuitable(convolution: Node) -> str | None:
    """Why neither op computes a convolution."""
    if not config.freezing or torch.is_grad_enabled():
        return "freezing is off, so that a float convolution keeps its last bits"
    values = arguments(convolution)
    if value(convolution).dtype not in _HALVES:
        return f"it is computed in {value(convolution).dtype}"
    if values["transposed"] or values["groups"] != 1 or any(d != 1 for d in values["dilation"]):
        return "it is transposed or has groups or a dilation"
    return None


def _obstacle(convolution: Node, packed: bool) -> str | None:
    """Why there is no kernel."""
    if value(convolution).device.type != "cuda":
        return None
    values = arguments(convolution)
    return obstacle(value(values["weight"]), packed, values["stride"])


def _operands(convolution: Node) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What both ops take first and last."""
    values = arguments(convolution)
    return (
        (values["input"], values["weight"], values["bias"]),
        (values["stride"], values["padding"]),
    )


def _fuse_bits(graph: Graph, convolution: Node, constants: Constants) -> str | None:
    """Rewrites a convolution of whose output only signs are read; else returns the reason."""
    pack = _only_pack(convolution)
    if pack is None:
        return "more than one pack reads it, or none"
    chain = find_chain(pack.args[0], pack, lambda node: node is convolution)  # type: ignore[arg-type]
    if isinstance(chain, str):
        return chain
    if any(constants.get(operand) is None for operand in chain.operands):
        return "what follows it is not constant"
    reason = _obstacle(convolution, packed=True)
    if reason is not None:
        return reason
    bounds = _bounds(chain, constants)
    if isinstance(bounds, str):
        return bounds
    first, last = _operands(convolution)
    with graph.inserting_before(pack):
        low, high = (constant(graph, bound, convolution) for bound in bounds)
        signs = call(graph, _ops.stem_conv2d_threshold.default, *first, low, high, *last)
        signs.meta["nn_module_stack"] = convolution.meta.get("nn_module_stack")
    report.done(NAME, convolution, "bits")
    replace(pack, signs)
    return None


def _only_pack(convolution: Node) -> Node | None:
    """The one pack that is reached from a convolution through ATen ops."""
    found: set[Node] = set()
    seen: set[Node] = set()
    waiting = [convolution]
    while waiting:
        for user in waiting.pop().users:
            if is_op(user, _ops.pack.default):
                found.add(user)
            elif user not in seen and str(user.target).startswith(("aten.", "prims.")):
                seen.add(user)
                waiting.append(user)
    return found.pop() if len(found) == 1 else None


def _bounds(chain: Chain, constants: Constants) -> tuple[Tensor, Tensor] | str:
    """Float32 ``[O]``: least and greatest value whose sign is positive at the end of a chain."""
    root = value(chain.root)
    channels = root.shape[1]
    with torch.utils._python_dispatch._disable_current_modes(), torch.no_grad():
        values = _every_value(root.dtype, root.device)
        block = max(1, BLOCK_VALUES // values.numel())
        parts = []
        for start in range(0, channels, block):
            stop = min(start + block, channels)
            seed = values.reshape(1, 1, -1, 1).expand(1, stop - start, -1, 1)
            evaluator = Evaluator(constants, channels, start, stop)
            result = evaluator.run(chain, seed).expand(1, stop - start, -1, 1)
            decisions = sign_decisions(result, value(chain.last).dtype)
            low, high = _interval(decisions, values)
            inside = (low.unsqueeze(1) <= values) & (values <= high.unsqueeze(1))
            several = int((inside != decisions).any(1).sum())
            if several:
                return f"the signs of {several} channels are positive in no one interval"
            parts.append((low, high))
        low, high = (torch.cat(column) for column in zip(*parts, strict=True))
        return low, high


def _every_value(dtype: torch.dtype, device: torch.device) -> Tensor:
    """All values of a 16-bit dtype, as float32, in ascending order; a NaN is last."""
    patterns = torch.arange(-(2**15), 2**15, device=device).to(torch.int16)
    values = patterns.view(dtype).to(torch.float32)
    numbers = values[~values.isnan()]
    # -0.0 before 0.0: by their bits, which order negative numbers the wrong way round.
    bits = numbers.view(torch.int32).to(torch.int64)
    order = torch.where(bits < 0, -(2**31) - 1 - bits, bits).argsort()
    return torch.cat([numbers[order], values.new_tensor([float("nan")])])


def _interval(decisions: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """First and last value that is decided positively, per channel; empty without one."""
    first = decisions.to(torch.int8).argmax(1)
    last = values.numel() - 1 - decisions.flip(1).to(torch.int8).argmax(1)
    some = decisions.any(1)
    infinity = float("inf")
    low = torch.where(some, values[first], infinity)
    return low, torch.where(some, values[last], -infinity)


def _fuse_floats(graph: Graph, convolution: Node, no_bits: str) -> str | None:
    """Rewrites a convolution and what follows it, in floats; else returns the reason."""
    reason = _obstacle(convolution, packed=False)
    if reason is not None:
        return reason
    dtype = value(convolution).dtype
    end, norm = convolution, None
    found = find_norm(convolution)
    if found is not None:
        rounded = _rounded(found[0], dtype)
        if rounded is not None:
            end, norm = rounded, found[1]
    relu = only_user(end, _aten.relu.default)
    if relu:
        end = next(iter(end.users))
    first, last = _operands(convolution)
    with graph.inserting_before(end):
        statistics = None if norm is None else rows(graph, norm, value(convolution).shape[1])
        new = y = call(graph, _ops.stem_conv2d.default, *first, statistics, relu, *last)
        y.meta["nn_module_stack"] = convolution.meta.get("nn_module_stack")
        if not same_strides(value(end), value(y)):
            # As in lower_conv.
            new = call(graph, _aten.clone.default, y, memory_format=torch.contiguous_format)
    with_it = [name for name, is_there in (("BatchNorm", norm), ("ReLU", relu)) if is_there]
    report.done(NAME, convolution, f"floats ({', '.join(with_it) or 'alone'}): {no_bits}")
    replace(end, new)
    return None


def _rounded(node: Node, dtype: torch.dtype) -> Node | None:
    """A node as it is rounded to a dtype, where nothing reads it before."""
    if value(node).dtype is dtype:
        return node
    user = next(iter(node.users))
    return user if only_user(node, _CONVERT) and value(user).dtype is dtype else None
