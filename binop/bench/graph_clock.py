"""The GPU's own time: replays of CUDA graphs between events.

Events around calls from Python would mostly time the host: it takes about 20 us to enqueue what
may run for 5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from binop.bench.clocks import Call
from binop.bench.device_load import ClockProbe, Load, Rest, Sustained

_WARM_UP_CALLS = 3
_TRIAL_CALLS = 4
# A replay this long hides the few microseconds between two graphs.
_SAMPLE_SECONDS = 1e-3
# Past these a graph costs more to capture than its sample is worth.
_MOST_CALLS = 512
_MOST_OUTPUT_BYTES = 2**32
_LONGEST_SAMPLE_SECONDS = 50e-3
# Outputs must fill the cache this often over, so that none is found there on its next turn.
_CACHE_TURNS = 2


def calls_per_graph(
    seconds: float, output_bytes: int, cache_bytes: int, input_copies: int = 1
) -> int:
    """How many calls a graph holds: enough for a long sample and to cycle outputs through the
    cache, within bounds; each input copy gets as many as any other."""
    wanted = max(
        _SAMPLE_SECONDS / seconds,
        _CACHE_TURNS * cache_bytes / max(output_bytes, 1),
        2,
    )
    allowed = min(
        _MOST_CALLS,
        _LONGEST_SAMPLE_SECONDS / seconds,
        _MOST_OUTPUT_BYTES / max(output_bytes, 1),
    )
    count = max(2, math.ceil(min(wanted, allowed)))
    return math.ceil(count / input_copies) * input_copies


@contextmanager
def _capture(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> Iterator[None]:
    """``torch.cuda.graph`` that leaves torch usable after a failure, for the next contender."""
    before = torch.cuda.current_stream()
    pool = torch.cuda.graph_pool_handle()
    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            yield
    except Exception:
        # torch 2.11 leaves the capture stream current and its allocator capturing, so that
        # every later capture fails (pytorch #180395). Where it does not, the call raises.
        torch.cuda.set_stream(before)
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(before.device.index, pool)
        raise


class GraphSample:
    """A run of calls captured in one graph, with every output alive: each has its own memory. It
    is replayed under a load, as often as that wants."""

    def __init__(
        self, calls: Sequence[Call], count: int, stream: torch.cuda.Stream, load: Load
    ) -> None:
        self.calls = count
        self._load = load
        self._probe = ClockProbe()
        self._start = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)
        self._graph = torch.cuda.CUDAGraph()
        with _capture(self._graph, stream):
            self._outputs = [calls[index % len(calls)]() for index in range(count)]
        storages = {output.untyped_storage().data_ptr(): output for output in self._outputs}
        self.rotated_bytes: int | None = sum(
            output.untyped_storage().nbytes() for output in storages.values()
        )

    def launch(self) -> None:
        self._load.lead_in(self._graph.replay)
        self._start.record()
        for _ in range(self._load.replays):
            self._graph.replay()
        self._end.record()
        self._probe.launch()

    def seconds(self) -> float:
        calls = self.calls * self._load.replays
        return self._start.elapsed_time(self._end) * 1e-3 / calls

    def megahertz(self) -> float:
        return self._probe.megahertz()

    def rehearse(self) -> Sequence[Tensor]:
        for output in self._outputs:
            output.fill_(math.nan if output.is_floating_point() else 0x55)
        self._graph.replay()
        torch.cuda.synchronize()
        return self._outputs[:: max(1, len(self._outputs) - 1)]


class GraphClock:
    """Captures samples on a stream of its own and replays them on the current one: each after a
    rest, or ``sustained``."""

    def __init__(self, device: torch.device, sustained: bool = False) -> None:
        self._sustained = sustained
        self.cache_bytes = int(torch.cuda.get_device_properties(device).L2_cache_size)
        self._stream = torch.cuda.Stream(device)

    def prepare(self, calls: Sequence[Call]) -> GraphSample:
        output = self._warm_up(calls)
        output_bytes = output.numel() * output.element_size()
        del output
        trial = GraphSample(calls, _TRIAL_CALLS, self._stream, Rest())
        trial.rehearse()  # The first replay also uploads the graph.
        trial.launch()
        self.wait()
        seconds = trial.seconds()
        del trial
        count = calls_per_graph(seconds, output_bytes, self.cache_bytes, len(calls))
        load = Sustained.of(count * seconds) if self._sustained else Rest()
        return GraphSample(calls, count, self._stream, load)

    def _warm_up(self, calls: Sequence[Call]) -> Tensor:
        """Compiles, picks algorithms and allocates workspaces where the capture will run."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for call in calls:
                for _ in range(_WARM_UP_CALLS):
                    output = call()
        torch.cuda.synchronize()
        return output

    def wait(self) -> None:
        torch.cuda.synchronize()
