"""``python -m binop bench``: measures the ops against their peers and writes what it found.

Importing this package is cheap: everything behind the command line is imported when it runs.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``python -m binop bench``."""
    from binop.bench import command

    command.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Carries out parsed options; the exit code (0 is success)."""
    from binop.bench import command

    return command.run(options)
