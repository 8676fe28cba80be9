"""What the rewrites did, and what they left alone and why.

Every outcome is counted in ``torch._dynamo.utils.counters["binop"]`` (done ones under the name
of the rewrite, others under ``"<rewrite>:not"``) and handed to the recorders that are listening.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch.fx import Node

from binop.inductor.graph import layer_of


@dataclass(frozen=True)
class Outcome:
    """One rewrite at one place. ``detail`` says what it became, or why it was left alone."""

    rewrite: str
    layer: str
    done: bool
    detail: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.rewrite} {'' if self.done else 'not '}done: {self.detail}"


_recorders: list[list[Outcome]] = []


@contextmanager
def recording() -> Iterator[list[Outcome]]:
    """Collects the outcomes of every graph that is compiled inside."""
    outcomes: list[Outcome] = []
    _recorders.append(outcomes)
    try:
        yield outcomes
    finally:
        _recorders.remove(outcomes)


def done(rewrite: str, node: Node, detail: str) -> None:
    _note(Outcome(rewrite, layer_of(node), True, detail))


def left(rewrite: str, node: Node, reason: str) -> None:
    _note(Outcome(rewrite, layer_of(node), False, reason))


def _note(outcome: Outcome) -> None:
    from torch._dynamo.utils import counters

    counters["binop"][outcome.rewrite if outcome.done else f"{outcome.rewrite}:not"] += 1
    for outcomes in _recorders:
        outcomes.append(outcome)
