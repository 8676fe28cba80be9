"""What the kernels of a network compute, by how their names start."""

from __future__ import annotations

_PARTS = {
    "conv_": "binary convolutions",
    "pack": "pack",
    "triton_": "pointwise operations and reductions",
    "Mem": "copies",
}
_OTHER = "float convolutions and matrix products (stem, downsampling, head)"


def part_of(kernel: str) -> str:
    return next((part for start, part in _PARTS.items() if kernel.startswith(start)), _OTHER)
