"""What a GPU does just before a sample, and the clock that it has at its end.

A GPU at its power limit lowers its clock, and takes milliseconds to raise it again: what runs
before a sample bears on it. So every sample starts from the same load: after a rest, at the highest
clock; or after the same work for so long that the clock has settled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

# 5 ms at 2 GHz. An H200 that cuDNN had brought to 1.5 GHz had times within 0.3% of its best after
# 3 ms of one idle thread. The device rests on a kernel, not on the host, which stays ahead: no
# event waits for a launch.
_REST_CYCLES = 10_000_000
# After this the clock only swings; a sample as long takes in the swings.
_SUSTAINED_SECONDS = 0.3
_PROBE_CYCLES = (100_000, 400_000)


class Load(Protocol):
    """What comes before a sample, and how often the sample replays its graph."""

    @property
    def replays(self) -> int: ...

    def lead_in(self, replay: Callable[[], None]) -> None: ...


@dataclass(frozen=True)
class Rest:
    """One replay, at the highest clock."""

    replays: int = 1

    def lead_in(self, replay: Callable[[], None]) -> None:
        torch.cuda._sleep(_REST_CYCLES)


@dataclass(frozen=True)
class Sustained:
    """Replays after as many others."""

    replays: int

    @classmethod
    def of(cls, seconds: float) -> Sustained:
        """For a graph that takes so long."""
        return cls(max(1, round(_SUSTAINED_SECONDS / seconds)))

    def lead_in(self, replay: Callable[[], None]) -> None:
        for _ in range(self.replays):
            replay()


class ClockProbe:
    """The clock of the multiprocessors, from the time that counted cycles take."""

    def __init__(self) -> None:
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(3)]

    def launch(self) -> None:
        self._events[0].record()
        for cycles, event in zip(_PROBE_CYCLES, self._events[1:], strict=True):
            torch.cuda._sleep(cycles)
            event.record()

    def megahertz(self) -> float:
        """Once the device is done. What a launch takes cancels out between the two probes."""
        first, second, third = self._events
        short, long = first.elapsed_time(second), second.elapsed_time(third)
        return (_PROBE_CYCLES[1] - _PROBE_CYCLES[0]) / (1e3 * (long - short))
