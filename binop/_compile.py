"""``python -m binop compile-kernels``: every CUDA kernel for any architecture, without a GPU.

It fails where a kernel would keep registers in local memory.
"""

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

    spilling = 0
    for arch in options.arch:
        report = list(compile_all([arch], fill_cache=options.fill_cache))
        seconds = sum(compiled.seconds for compiled in report)
        size = sum(len(compiled.cubin) for compiled in report)
        print(f"{arch:<8} {len(report)} kernels, {seconds:.1f} s, {size:,} bytes", flush=True)
        for compiled in report:
            if compiled.resources is not None and compiled.resources.local_bytes > 0:
                spilling += 1
                print(f"{arch:<8} local memory: {compiled.kernel} {compiled.resources}", flush=True)
    if options.fill_cache:
        print(f"kept in {cache_directory()}")
    return 1 if spilling else 0
