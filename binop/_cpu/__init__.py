"""The CPU backend: bit-packed kernels from ``kernels/cpu/``, compiled when binop is installed.

``library`` finds and loads the shared library and chooses its path (the code for one instruction
set), ``abi`` mirrors its structs, ``weights`` keeps packed weights in the kernels' order, ``norms``
what a BatchNorm multiplies by and adds, ``prepare`` joins these per shape, and ``ops`` has the op
functions. Importing this package loads nothing.
"""

from __future__ import annotations


def status() -> str | None:
    """Why this backend cannot serve CPU tensors, or ``None`` if it can.

    Raises:
        ValueError: ``BINOP_CPU_ISA`` names no instruction set that this machine can run.
    """
    from binop._cpu import library

    return library.obstacle()
