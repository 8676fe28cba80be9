"""``pack(chain(binary_conv2d_packed(...)))`` -> ``binary_conv2d_threshold(...)``; a max-pool may
stand inside the chain.

Where the chain's parameters are constants, the decision ``chain(dot) >= 0`` is evaluated for
every integer that ``dot`` can be, per output channel. If it flips at most once, the place of the
flip is the threshold: no algebra, no tolerance, and right for negative and zero factors. Where
they are not, the chain must be monotonic by its structure, and ``search`` finds the place at run
time.

A max-pool in the chain ``g(max(f(dot)))`` needs ``f`` to be monotonic in addition, and never NaN
(a max-pool hands NaN on): where ``f`` rises, the largest dot of the window decides, so that the
bits ``dot >= t`` are ORed; where it falls, the smallest, and the bits ``dot < t`` are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Graph, Node

from binop.inductor import monotonic, pool, report, search
from binop.inductor.chain import CONVOLUTIONS, Chain, find_chain
from binop.inductor.constants import Constants
from binop.inductor.evaluate import BLOCK_VALUES, Dots, Evaluator, known, sign_decisions
from binop.inductor.graph import arguments, call, constant, is_op, replace, value
from binop.inductor.thresholds import flips, read_off

NAME = "threshold"
POOL_NAME = "pool on bits"
_ops = torch.ops.binop
_aten = torch.ops.aten

# Beyond this (minutes of evaluation) a layer stays as it is.
_MOST_VALUES = 2**31


@dataclass(frozen=True)
class Site:
    """A decision: ``pack(after(max_pool(before(convolution))))``, or without a pool
    ``pack(after(convolution))``."""

    pack: Node
    convolution: Node
    after: Chain
    before: Chain | None = None

    @property
    def chains(self) -> list[Chain]:
        return [self.after] if self.before is None else [self.before, self.after]


@dataclass(frozen=True)
class Decision:
    """The op's operands, and the packed words that invert bits after the pool."""

    threshold: Tensor
    flip: Tensor
    inverted: Tensor | None


def run(graph: Graph, constants: Constants) -> None:
    for node in list(graph.nodes):
        if is_op(node, _ops.pack.default) and not _is_weight(node):
            site = find_site(node)
            reason = site if isinstance(site, str) else _fuse(graph, site, constants)
            if reason is not None:
                report.left(NAME, node, reason)


def _is_convolution(node: Node) -> bool:
    return is_op(node, *CONVOLUTIONS)


def _is_weight(pack: Node) -> bool:
    readers = [user for user in pack.users if is_op(user, *CONVOLUTIONS)]
    return bool(readers) and all(arguments(user)["weight"] is pack for user in readers)


def find_site(pack: Node) -> Site | str:
    """The convolution whose values a ``pack`` decides on, or why there is none."""
    source: Node = pack.args[0]  # type: ignore[assignment]
    after = find_chain(source, pack, lambda n: _is_convolution(n) or pool.is_max_pool(n))
    if isinstance(after, str):
        return after
    if _is_convolution(after.root):
        return Site(pack, after.root, after)
    reason = pool.obstacle(after.root)
    if reason is not None:
        return f"max-pool: {reason}"
    pool_node: Node = after.root.args[0]  # type: ignore[assignment]
    before = find_chain(pool.pool_input(after.root), pool_node, _is_convolution)
    if isinstance(before, str):
        return f"before the max-pool, {before}"
    return Site(pack, before.root, after, before)


def _fuse(graph: Graph, site: Site, constants: Constants) -> str | None:
    """Rewrites a site; returns the reason if it cannot."""
    dots = Dots.of(site.convolution)
    if known(constants, site.convolution, site.chains):
        decision = decide(site, constants, dots)
        if isinstance(decision, str):
            return decision
        with graph.inserting_before(site.pack):
            operands = _constant_operands(graph, site, decision)
            new = _emit(graph, site, operands)
        how = "constant"
    else:
        for chain in site.chains:
            reason = monotonic.obstacle(chain)
            if reason is not None:
                return f"parameters are not constant (is freezing on?), and {reason}"
        if not search.pays(site.convolution, dots):
            return "parameters are not constant, and a search costs more than so small an image"
        with graph.inserting_before(site.pack):
            new = _emit(graph, site, _searched_operands(graph, site, dots))
        how = "searched at run time"
    report.done(NAME, site.convolution, f"{how}: {describe(site)}")
    if site.before is not None:
        report.done(POOL_NAME, site.convolution, "OR over windows of words")
    replace(site.pack, new)
    return None


def decide(site: Site, constants: Constants, dots: Dots) -> Decision | str:
    """Thresholds of all channels, or why some channel has none."""
    out_channels = value(site.convolution).shape[1]
    if dots.count * out_channels > _MOST_VALUES:
        return f"{dots.count} values of each sum are too many to evaluate"
    block = max(1, BLOCK_VALUES // dots.count)
    parts = []
    with torch.utils._python_dispatch._disable_current_modes(), torch.no_grad():
        for start in range(0, out_channels, block):
            stop = min(start + block, out_channels)
            part = _decide_block(site, Evaluator(constants, out_channels, start, stop), dots)
            if isinstance(part, str):
                return part
            parts.append(part)
        threshold, flip, inverted = (torch.cat(column) for column in zip(*parts, strict=True))
        words = None
        if bool(inverted.any()):
            signs = torch.where(inverted, 1.0, -1.0)
            words = _ops.pack(signs.reshape(1, -1, 1, 1)).reshape(-1)
        return Decision(threshold, flip, words)


def _decide_block(
    site: Site, evaluator: Evaluator, dots: Dots
) -> tuple[Tensor, Tensor, Tensor] | str:
    """Per channel: threshold, flip, and whether the bit is inverted after the pool."""
    seed = evaluator.convolution(site.convolution, dots)
    falling: Tensor | str | None = None
    if site.before is not None:
        seed = evaluator.run(site.before, seed)
        if value(site.before.last).dtype.itemsize == 2:
            # Inductor writes what a pool reads to memory before it pools.
            seed = seed.to(value(site.before.last).dtype).to(torch.float32)
        falling = _falling(seed)
    if isinstance(falling, str):
        return falling
    values = evaluator.run(site.after, seed)
    decisions = sign_decisions(values, value(site.after.last).dtype)
    several = int((flips(decisions) > 1).sum())
    if several:
        return f"the decision of {several} channels flips more than once"
    threshold, flip = read_off(decisions, dots)
    if falling is None:
        return threshold, flip, torch.zeros_like(flip)
    same = seed[0, :, 1:, 0] == seed[0, :, :-1, 0]
    if bool((same & (decisions[:, 1:] != decisions[:, :-1])).any()):
        return "before the max-pool, zeros of both signs lead to different decisions"
    return threshold, falling, falling ^ flip


def _falling(values: Tensor) -> Tensor | str:
    """Whether ``[1, channels, count, 1]`` falls with the dot, per channel."""
    if bool(values.isnan().any()):
        return "before the max-pool, values can be NaN"
    steps = values[0, :, 1:, 0] - values[0, :, :-1, 0]
    steps = torch.where(values[0, :, 1:, 0] == values[0, :, :-1, 0], 0.0, steps)  # inf - inf
    rising, falling = (steps >= 0).all(1), (steps <= 0).all(1)
    if not bool((rising | falling).all()):
        return "before the max-pool, values are not monotonic"
    return ~rising


# Threshold, flip, and the words that invert bits after a pool.
Operands = tuple[Node, Node, Node | None]


def _constant_operands(graph: Graph, site: Site, decision: Decision) -> Operands:
    threshold, flip, inverted = (
        None if data is None else constant(graph, data, site.convolution)
        for data in (decision.threshold, decision.flip, decision.inverted)
    )
    assert threshold is not None
    assert flip is not None
    return threshold, flip, inverted


def _searched_operands(graph: Graph, site: Site, dots: Dots) -> Operands:
    found = search.Search(graph, site.convolution, site.chains, dots)
    threshold, flip = found.thresholds()
    if site.before is None:
        return threshold, flip, None
    falling = found.falling()
    inverted = call(graph, _aten.bitwise_xor.Tensor, falling, flip)
    signs = call(graph, _aten.view.default, inverted, [1, -1, 1, 1])
    signs = call(graph, torch.ops.prims.convert_element_type.default, signs, torch.int8)
    # pack takes 0 for +1: 0 and -1, and inverted ones must be set bits.
    signs = call(graph, _aten.sub.Tensor, signs, 1)
    words = call(graph, _ops.pack.default, signs)
    return threshold, falling, call(graph, _aten.view.default, words, [-1])


def _emit(graph: Graph, site: Site, operands: Operands) -> Node:
    threshold, flip, inverted = operands
    values = arguments(site.convolution)
    new = call(
        graph,
        _ops.binary_conv2d_threshold.default,
        values["x"],
        values["weight"],
        values["channels"],
        threshold,
        flip,
        values["stride"],
        values["padding"],
        values["dilation"],
        values["groups"],
        values["pad_value"],
    )
    new.meta["nn_module_stack"] = site.convolution.meta.get("nn_module_stack")
    if site.before is None:
        return new
    new = pool.or_pool(graph, new, site.after.root)
    if inverted is None:
        return new
    return call(graph, _aten.bitwise_xor.Tensor, new, inverted)


def describe(site: Site) -> str:
    """The operations that went into the threshold, in order."""
    names: list[str] = []
    for chain in site.chains:
        if names:
            names.append("max_pool2d")
        names += [str(node.target).split(".")[1] for node in chain.nodes]
    return ", ".join(names) or "nothing in between"
