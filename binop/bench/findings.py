"""What tuning is asked and what it finds: problems, the fastest choices, and their table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from binop._cuda.choice import Choice
from binop._cuda.conv_call import ConvCall
from binop._cuda.conv_kernels import WARPGROUP_WIDE, choices, plan_choice, why_not_choice
from binop._cuda.launches import Device, Kernel
from binop._cuda.plan_conv import choice_by_estimate
from binop._cuda.tuned import Entry, Key
from binop.bench.cases import Case, ConvCase
from binop.bench.text import Table, number

# The output of the contenders whose plans are measured, and whether it is channels_last.
OUTPUTS = {
    "packed-to-packed": ("bits", True),
    "packed-to-float": ("bfloat16", True),
    "float-to-float-nchw": ("bfloat16", False),  # its time has packing in it
}
# Less is noise, and the heuristic may be right.
_LEAST_GAIN = 0.02


@dataclass(frozen=True)
class Problem:
    """A convolution whose plan is measured, through one contender of a case."""

    case: ConvCase
    contender: str

    @property
    def call(self) -> ConvCall:
        out, channels_last = OUTPUTS[self.contender]
        return ConvCall(out, self.case.pad_value, channels_last, alignment=16)

    def choices(self, device: Device, within: float, kernel: str | None = None) -> list[Choice]:
        """The heuristic's first (of one ``kernel`` alone, its own). Of each kernel those whose
        estimate is at most ``within`` times the kernel's best: estimates of different kernels do
        not compare. Empty where the kernel does not take it."""
        geometry, call = self.case.geometry, self.call
        listed = [
            (choice, cycles)
            for choice, cycles in choices(geometry, call, device)
            if kernel is None or choice.kernel == kernel
        ]
        if not listed:
            return []
        # conv_mma has a third of their peak at most.
        if kernel is None and any(choice.kernel in WARPGROUP_WIDE for choice, _ in listed):
            listed = [item for item in listed if item[0].kernel in WARPGROUP_WIDE]
        least: dict[str, float] = {}
        for choice, cycles in listed:
            least[choice.kernel] = min(cycles, least.get(choice.kernel, cycles))
        near = [choice for choice, cycles in listed if cycles <= within * least[choice.kernel]]
        first = choice_by_estimate(geometry, call, device)
        if kernel is not None:
            first = min(listed, key=lambda item: item[1])[0]
        return list(dict.fromkeys([first, *near]))

    def kernel(self, choice: Choice, device: Device) -> Kernel:
        return plan_choice(self.case.geometry, self.call, device, choice).kernel


@dataclass(frozen=True)
class Finding:
    """Medians in microseconds: of the finalists in turns, and of every choice ``alone``; ``failed``
    has messages by choice."""

    problem: Problem
    heuristic: Choice
    us: dict[Choice, float]
    alone: dict[Choice, float]
    failed: dict[Choice, str]

    @property
    def best(self) -> Choice:
        return min(self.us, key=self.us.__getitem__)

    @property
    def gain(self) -> float:
        """How many times faster than the heuristic's choice."""
        return self.us[self.heuristic] / self.us[self.best]

    def entry(self, device: Device) -> Entry | None:
        """For the table; None where the heuristic is as good."""
        if self.gain <= 1 + _LEAST_GAIN:
            return None
        key = Key.of(self.problem.case.geometry, self.problem.call, device)
        return Entry(key, self.best, self.us[self.best], self.us[self.heuristic])


def problems(cases: Iterable[Case], names: Sequence[str] | None) -> list[Problem]:
    """Of the cases that time a device's convolutions."""
    return [
        Problem(case, name)
        for case in cases
        if isinstance(case, ConvCase) and case.kind != "overhead"
        for name in OUTPUTS
        if names is None or name in names
    ]


def stale(entries: Iterable[Entry], device: Device) -> dict[Entry, str]:
    """Entries for a device of this size that its plan cannot follow any more, and why."""
    found = {}
    for entry in entries:
        key = entry.key
        if (key.capability, key.multiprocessors) == (device.capability, device.multiprocessors):
            obstacle = why_not_choice(key.geometry, key.call, device, entry.choice)
            if obstacle is not None:
                found[entry] = obstacle
    return found


def merged(before: Iterable[Entry], findings: Iterable[Finding], device: Device) -> list[Entry]:
    """The table with what was found now in place of what it said of these problems."""
    found = {
        Key.of(finding.problem.case.geometry, finding.problem.call, device): finding.entry(device)
        for finding in findings
    }
    kept = [entry for entry in before if entry.key not in found]
    return kept + [entry for entry in found.values() if entry is not None]


def table(findings: Iterable[Finding]) -> Table:
    rows = [
        [
            finding.problem.case.name,
            finding.problem.contender,
            str(finding.heuristic),
            number(finding.us[finding.heuristic]),
            str(finding.best),
            number(finding.us[finding.best]),
            f"{finding.gain:.3f}x",
            f"{len(finding.alone)}" + (f", {len(finding.failed)} failed" if finding.failed else ""),
        ]
        for finding in findings
    ]
    columns = ["case", "contender", "heuristic", "us", "fastest", "us", "gain", "timed"]
    return Table("Kernels and tiles: the heuristic's choice and the fastest", columns, rows)
