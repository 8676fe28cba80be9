"""Command line: ``python -m binop``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from binop import _compile, _explain, _first_call, _info, bench


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m binop", description="1-bit convolution")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="versions, devices, and which backend serves which and why")
    bench.add_arguments(
        commands.add_parser("bench", help="measure the ops against their peers, checked first")
    )
    _compile.add_arguments(
        commands.add_parser("compile-kernels", help="compile the CUDA kernels; needs no GPU")
    )
    commands.add_parser("first-call", help="what an op's first call costs a process, on CUDA")
    _explain.add_arguments(
        commands.add_parser("explain", help="what the compiler plugin makes of a model")
    )
    options = parser.parse_args(arguments)
    if options.command == "compile-kernels":
        return _compile.run(options)
    if options.command == "first-call":
        return _first_call.run()
    if options.command == "explain":
        return _explain.run(options)
    if options.command == "bench":
        return bench.run(options)
    print("\n".join(_info.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
