"""The graph pass: which rewrites run, in which order, and where Inductor calls them.

All run as Inductor's ``joint_custom_pre_pass``, on ATen graphs:

- Before freezing, so that ``pack(weight)`` becomes a constant with Inductor's own folding, and
  before the key of the FX graph cache is computed: thresholds depend on the values of frozen
  parameters, which that key leaves out. As constants of the graph they enter it. A post-grad pass
  would put one model's thresholds into the cached code of another.
- In training, before the joint graph is cut into forward and backward, so that both share one
  pack of ``x``, and the cut sees what is saved as packed words.
- Not pre-grad: there, BatchNorm, PReLU and pooling are still modules in many spellings.

The hook, ``CustomGraphPass`` and ``stable_topological_sort`` are private to Inductor by their
place (``torch._inductor``), and the same in torch 2.11 to 2.13.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch._inductor import custom_graph_pass
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.pattern_matcher import stable_topological_sort
from torch.fx import Graph

from binop.inductor import (
    fuse_cat,
    fuse_pack,
    fuse_residual,
    fuse_stem,
    fuse_threshold,
    join_pack,
    keep_layout,
    lower_conv,
    share,
)
from binop.inductor.constants import Constants

HOOK = "joint_custom_pre_pass"


def rewrite(graph: Graph) -> None:
    """All rewrites but the last, in order. A graph without binop's ops stays as it is."""
    if not any(str(node.target).startswith("binop.") for node in graph.nodes):
        return
    lower_conv.run(graph)
    stable_topological_sort(graph)
    fuse_cat.run(graph)
    share.run(graph)
    if not _is_training(graph):
        constants = Constants(graph)
        fuse_threshold.run(graph, constants)
        fuse_residual.run(graph)
        fuse_stem.run(graph, constants)
        stable_topological_sort(graph)
        fuse_pack.run(graph)
        keep_layout.run(graph)
    graph.eliminate_dead_code()
    graph.lint()


class BinopPass(CustomGraphPass):
    """All rewrites, and then those joined that are one call of a backend: it hides the packs that
    ``explain`` tells about."""

    def __call__(self, graph: Graph) -> None:
        rewrite(graph)
        if not _is_training(graph):
            join_pack.run(graph)
            graph.lint()

    def uuid(self) -> tuple[Any, ...]:
        chosen = (fuse_pack.DEVICES, join_pack.DEVICES)
        sets = (tuple(sorted(devices)) for devices in chosen)
        return _sources_hash(), *sets, *fuse_residual.identity(), *fuse_stem.identity()


def _is_training(graph: Graph) -> bool:
    # AOTAutograd's name for the gradients that come into a joint graph.
    return any(node.name.startswith("tangents") for node in graph.find_nodes(op="placeholder"))


@cache
def _sources_hash() -> bytes:
    """Of the whole package: the ops' checks and fakes shape the graphs, too."""
    package = Path(__file__).resolve().parents[1]
    digest = sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.digest()


class _Chained(CustomGraphPass):
    """Passes one after the other, for versions of torch that take a single one."""

    def __init__(self, *passes: Callable[[Graph], Any]) -> None:
        self._passes = passes

    def __call__(self, graph: Graph) -> None:
        for each in self._passes:
            each(graph)

    def uuid(self) -> Any:
        ids = [p.uuid() if isinstance(p, CustomGraphPass) else None for p in self._passes]
        return None if None in ids else tuple(ids)  # None: Inductor does not cache


def chained(existing: Any) -> Any:
    """A value for the hook that runs what the user configured there, then binop's pass.

    ``existing`` is None, a pass, or (torch 2.13) a list or tuple of passes.
    """
    ours = BinopPass()
    if existing is None:
        return ours
    passes = existing if isinstance(existing, list | tuple) else (existing,)
    if any(isinstance(each, BinopPass) for each in passes):
        return existing
    if hasattr(custom_graph_pass, "get_custom_graph_passes"):
        return (*passes, ours)
    return _Chained(*passes, ours)


def config_patches(configured: dict[str, Any] | None = None) -> dict[str, Any]:
    """See ``binop.inductor.config_patches``."""
    from torch._inductor import config

    patches = dict(configured or {})
    patches[HOOK] = chained(patches.get(HOOK, getattr(config, HOOK)))
    return patches
