"""How long a call takes: one sample is the mean over a run of calls, on the host's clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

Call = Callable[[], Tensor]


class Sample(Protocol):
    """A run of calls that can be timed again and again."""

    calls: int
    # Distinct output memory that the run writes, in bytes; None where nobody keeps it apart.
    rotated_bytes: int | None

    def launch(self) -> None:
        """Starts the run, such that nothing that ran before bears on it. Its time may be read
        after the clock's ``wait``."""

    def seconds(self) -> float:
        """Time of one call in the last run."""

    def megahertz(self) -> float | None:
        """The device's clock at the end of the last run; None where it is not known."""

    def rehearse(self) -> Sequence[Tensor]:
        """Runs once, untimed, over poisoned outputs; some outputs as the timed runs write them."""


class Clock(Protocol):
    """Makes samples, and waits for them."""

    # The last-level cache that repeated calls must not profit from; 0 where nothing is done.
    cache_bytes: int

    def prepare(self, calls: Sequence[Call]) -> Sample:
        """Warms up and settles how many calls a sample takes."""

    def wait(self) -> None:
        """Returns when every launch is done."""


class WallSample:
    """Consecutive calls between two readings of the host's clock."""

    rotated_bytes: int | None = None

    def __init__(
        self, calls: Sequence[Call], count: int, synchronize: Callable[[], None] | None
    ) -> None:
        self._calls = [calls[index % len(calls)] for index in range(count)]
        self._synchronize = synchronize
        self._seconds = 0.0
        self.calls = count

    def launch(self) -> None:
        if self._synchronize is not None:
            self._synchronize()
        start = time.perf_counter()
        for call in self._calls:
            call()
        self._seconds = (time.perf_counter() - start) / self.calls

    def seconds(self) -> float:
        return self._seconds

    def megahertz(self) -> None:
        return None

    def rehearse(self) -> Sequence[Tensor]:
        return [self._calls[-1]()]


class WallClock:
    """For the CPU: batches of calls that last at least ``batch_seconds``.

    With ``synchronize``, for the host's share of a CUDA call: the device is idle before a batch,
    and the batch ends when its last call has been enqueued, not when it has run.
    """

    def __init__(
        self,
        batch_seconds: float = 2e-3,
        most_calls: int = 10_000,
        synchronize: Callable[[], None] | None = None,
    ) -> None:
        self.cache_bytes = 0
        self._batch_seconds = batch_seconds
        self._most_calls = most_calls
        self._synchronize = synchronize

    def prepare(self, calls: Sequence[Call]) -> WallSample:
        for call in calls:
            call()
        count = 1
        while True:
            sample = WallSample(calls, count, self._synchronize)
            sample.launch()
            if count == self._most_calls or sample.seconds() * count >= self._batch_seconds:
                return sample
            count = min(2 * count, self._most_calls)

    def wait(self) -> None:
        if self._synchronize is not None:
            self._synchronize()
