"""The command line of ``python -m binop bench``."""

from __future__ import annotations

import argparse
import datetime
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from binop.bench import readme, tables, writers
from binop.bench.result import Result, load, save, slug

if TYPE_CHECKING:
    from binop._cuda.launches import Device
    from binop.bench.cases import Case
    from binop.bench.findings import Finding

_ROUNDS = 50
_QUICK_ROUNDS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measures binop's ops against their peers. Writes JSON, prints tables; every result is "
        "checked before it is timed. Exit code 1: a contender failed or gave wrong results."
    )
    what = parser.add_argument_group("what to measure")
    what.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda if there is one")
    what.add_argument(
        "--cases",
        nargs="+",
        metavar="NAME",
        help="names of cases or of groups (see --list; default: the cases outside the groups)",
    )
    what.add_argument("--contenders", nargs="+", metavar="NAME", help="default: all")
    what.add_argument(
        "--networks",
        action="store_true",
        help="measure whole compiled networks (examples/models of a checkout), not ops",
    )
    what.add_argument(
        "--autotune",
        action="store_true",
        help="with --networks: mode='max-autotune' for every contender (minutes of compilation)",
    )
    what.add_argument(
        "--tune",
        action="store_true",
        help="try the kernels and tiles of the cases on this GPU, and write the table of choices "
        "that the plan consults (--out: default the package's own)",
    )
    what.add_argument(
        "--within",
        type=float,
        default=1.5,
        metavar="FACTOR",
        help="with --tune: skip tiles whose estimate is so many times their kernel's best (1.5)",
    )
    what.add_argument(
        "--kernel",
        choices=["conv_wgmma", "conv_wgmma_in_place", "conv_wgmma_rows", "conv_mma"],
        help="with --tune: compare the tiles of this kernel alone, and write nothing",
    )
    what.add_argument("--list", action="store_true", help="list cases and contenders, and stop")
    what.add_argument("--quick", action="store_true", help="few cases, 5 rounds")
    what.add_argument("--repeats", type=_positive, help="rounds of a case (default 50)")
    what.add_argument(
        "--seconds", type=float, default=10.0, help="end a case's rounds after this (default 10)"
    )
    what.add_argument(
        "--cold", action="store_true", help="rotate the inputs past the GPU's cache, too"
    )
    what.add_argument(
        "--sustained",
        action="store_true",
        help="on CUDA: let each contender run 0.3 s before each sample, which takes as long, so "
        "that power limits its clock as in use (default: the clock after a rest)",
    )
    what.add_argument("--seed", type=int, help="of the random inputs (default: a fresh one)")
    where = parser.add_argument_group("where to put it")
    where.add_argument(
        "--out", type=Path, help="default: benchmarks/results/DEVICE-DATE.json", metavar="FILE"
    )
    where.add_argument("--plots", type=Path, metavar="DIR", help="draw plots (with --render, too)")
    where.add_argument(
        "--commit",
        metavar="TEXT",
        help="what to record where there is no .git: git describe --always --dirty --abbrev=40",
    )
    stored = parser.add_argument_group("stored results")
    stored.add_argument("--render", type=Path, metavar="FILE", help="print a result as Markdown")
    stored.add_argument(
        "--readme",
        nargs=2,
        type=Path,
        metavar=("README", "FILE"),
        help="rewrite the result's blocks <!-- bench:DEVICE/TABLE begin --> ... end -->",
    )
    stored.add_argument("--check", action="store_true", help="with --readme: only compare")


def run(options: argparse.Namespace) -> int:
    try:
        return _run(options)
    except (ValueError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    if options.check and options.readme is None:
        raise ValueError("--check: expected --readme README FILE with it")
    if options.plots is not None:
        _require_matplotlib()
    if options.readme is not None:
        readme_path, result_path = options.readme
        return _update_readme(readme_path, result_path, options.check)
    if options.render is not None:
        result = load(options.render)
        print(writers.markdown_report(tables.report(result)))
        _draw(result, options.plots)
        return 0
    if options.list:
        return _list(options)
    return _tune(options) if options.tune else _measure(options)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def _require_matplotlib() -> None:
    from binop.bench import plots

    if not plots.available():
        raise ValueError("--plots: matplotlib is missing; pip install 'binop[bench]'")


def _draw(result: Result, directory: Path | None) -> None:
    if directory is None:
        return
    from binop.bench import plots

    for path in plots.draw(result, directory):
        print(f"wrote {path}", file=sys.stderr)


def _update_readme(readme_path: Path, result_path: Path, check: bool) -> int:
    text = readme_path.read_text(encoding="utf-8")
    fresh = readme.replace_blocks(text, load(result_path))
    if fresh == text:
        return 0
    if check:
        print(
            f"bench: {readme_path} differs from {result_path}; "
            f"run: python -m binop bench --readme {readme_path} {result_path}",
            file=sys.stderr,
        )
        return 1
    readme_path.write_text(fresh, encoding="utf-8")
    return 0


def _device_type(options: argparse.Namespace) -> str:
    import torch

    present = torch.cuda.is_available()
    if options.device == "cuda" and not present:
        raise ValueError("--device cuda: torch sees no CUDA device")
    return options.device or ("cuda" if present else "cpu")


def _list(options: argparse.Namespace) -> int:
    from binop.bench.cases import cases, groups
    from binop.bench.contenders import recipes

    device_type = _device_type(options)
    listed = {"": cases(device_type, options.networks)}
    if not options.networks:
        listed |= groups(device_type)
    for group, members in listed.items():
        if group:
            print(f"group {group}, measured when it is named:")
        for case in members:
            names = [r.name for r in recipes(device_type, case.kind, case.extra)]
            print(f"{case.name:<12} {case.kind:<9} {case.shape}\n{'':<12} {' '.join(names)}")
    return 0


def _repeats(options: argparse.Namespace) -> int:
    return options.repeats or (_QUICK_ROUNDS if options.quick else _ROUNDS)


def _seed(options: argparse.Namespace) -> int:
    return random.SystemRandom().randrange(2**31) if options.seed is None else options.seed


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _tune(options: argparse.Namespace) -> int:
    import torch

    from binop._cuda import tuned
    from binop.backends import cuda_obstacle
    from binop.bench import cases, contenders, findings, tune

    device = torch.device(_device_type(options))
    if device.type != "cuda":
        raise ValueError("--tune: the CUDA kernels alone have a table of choices")
    obstacle = cuda_obstacle(torch.cuda.current_device())
    if obstacle is not None:
        raise ValueError(f"--tune: {obstacle}")
    chosen = cases.select(device.type, options.cases, options.quick)
    contenders.require_names(device.type, options.contenders)
    plan = tune.Plan(
        device,
        chosen,
        options.contenders,
        options.kernel,
        options.within,
        _repeats(options),
        options.seconds,
        _seed(options),
    )
    out = options.out or tuned.PATH
    one_kernel = options.kernel is not None  # Its fastest tile is not yet the fastest: not written.
    before = [] if one_kernel else tuned.load(out if out.exists() else tuned.PATH)
    # What a run that is killed leaves; hidden, as nobody has seen the rest.
    partial_out = out.with_name(f".{out.stem}.partial.json")

    def keep(facts: Device, found: list[Finding]) -> None:
        if not one_kernel:
            tuned.save(findings.merged(before, found, facts), partial_out)

    if not one_kernel:  # Now, not after minutes: that the table can be written.
        tuned.save(before, out)
    try:
        facts, found = tune.run(plan, _report, keep)
    except RuntimeError as error:
        partial_out.unlink(missing_ok=True)
        print(f"bench: nothing written: {error}", file=sys.stderr)
        return 1
    writers.show([findings.table(found)])
    failed = any(finding.failed for finding in found)
    if one_kernel:
        return int(failed)
    gone = findings.stale(before, facts)
    for entry, why in gone.items():
        print(f"bench: dropped {entry.choice} for {entry.key.geometry}: {why}", file=sys.stderr)
    kept = [entry for entry in before if entry not in gone]
    tuned.save(findings.merged(kept, found, facts), out)
    partial_out.unlink(missing_ok=True)
    print(f"wrote {out}", file=sys.stderr)
    return int(failed)


def _suffix(
    chosen: Sequence[Case], default: Sequence[Case], networks: bool, sustained: bool
) -> str:
    """Of a result's name: networks, groups of cases and other loads have README blocks of their
    own."""
    of_cases = "-networks" if networks else "" if set(chosen) & set(default) else "-more"
    return of_cases + ("-sustained" if sustained else "")


def _measure(options: argparse.Namespace) -> int:
    import torch

    from binop.bench import cases, contenders, gate, machine, measure

    device = torch.device(_device_type(options))
    if options.sustained and device.type != "cuda":
        raise ValueError(f"--sustained: expected a CUDA device, got {device}")
    chosen = cases.select(device.type, options.cases, options.quick, options.networks)
    contenders.require_names(device.type, options.contenders)
    plan = measure.Plan(
        device=device,
        cases=chosen,
        repeats=_repeats(options),
        seconds=options.seconds,
        seed=_seed(options),
        names=options.contenders,
        cold=options.cold,
        autotune=options.autotune,
        sustained=options.sustained,
    )
    facts = machine.describe(device)
    now = datetime.datetime.now(datetime.timezone.utc)
    default = cases.cases(device.type)
    suffix = _suffix(chosen, default, options.networks, options.sustained)
    name = slug(facts["device"]) + suffix
    out = options.out or Path("benchmarks", "results", f"{name}-{now:%Y-%m-%d}.json")
    conditions = machine.commit(options.commit) | {
        "seed": plan.seed,
        "conv_inputs": "rotated past the cache" if plan.cold else "one set, may stay in the cache",
        "quick": options.quick,
        "autotune": options.autotune,
        "sustained": options.sustained,
    }
    # What a run that is killed leaves; hidden, as it is no result.
    partial_out = out.with_name(f".{out.stem}.partial.json")

    def result_of(measured: measure.Measured) -> Result:
        return Result(name, now.isoformat(timespec="seconds"), facts, conditions, *measured)

    try:
        result = result_of(
            measure.run(plan, _report, lambda so_far: save(result_of(so_far), partial_out))
        )
    except gate.WrongResultError as error:
        partial_out.unlink(missing_ok=True)
        print(f"bench: wrong result, nothing written: {error}", file=sys.stderr)
        return 1
    save(result, out)
    partial_out.unlink(missing_ok=True)
    writers.show(tables.report(result))
    print(f"wrote {out}", file=sys.stderr)
    _draw(result, options.plots)
    for failure in result.failures:
        print(f"bench: failed: {failure}", file=sys.stderr)
    return 1 if result.failures else 0
