"""``python -m binop compile-kernels``: every CUDA kernel for any architecture, without a GPU."""

from __future__ import annotations

import argparse
import importlib.util
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from binop._cuda.jit import ARCHITECTURES

    parser.add_argument(
        "--arch",
        nargs="+",
        choices=ARCHITECTURES,
        default=list(ARCHITECTURES),
        metavar="ARCH",
        help=f"out of {', '.join(ARCHITECTURES)} (default: all)",
    )
    parser.add_argument(
        "--fill-cache",
        action="store_true",
        help="keep the cubins where the first use of an op looks for them (BINOP_CACHE_DIR)",
    )


def run(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("cupy") is None:
        print(
            "compile-kernels: CuPy is not installed (pip install 'binop[cuda13]')", file=sys.stderr
        )
        return 2
    from binop._cuda.jit import cache_directory
    from binop._cuda.variants import compile_all

    for arch in options.arch:
        report = compile_all([arch], fill_cache=options.fill_cache)
        seconds = sum(compiled.seconds for compiled in report)
        size = sum(len(compiled.cubin) for compiled in report)
        print(f"{arch:<8} {len(report)} kernels, {seconds:.1f} s, {size:,} bytes", flush=True)
    if options.fill_cache:
        print(f"kept in {cache_directory()}")
    return 0
