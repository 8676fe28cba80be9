"""An explicit choice of the kernel that convolves, and of its tile: found by measuring, or forced.

No tensors and no CuPy here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Read when a call is planned, which is once for each shape and the like.
VARIABLE = "BINOP_CUDA_CONV"


@dataclass(frozen=True)
class Choice:
    """A kernel by the name of its entry, and the numbers of a tile, as ``conv_kernels`` names them;
    without, the tile that the plan would take. As text: ``conv_wgmma 128x3``."""

    kernel: str
    tile: tuple[int, ...] | None = None

    def __str__(self) -> str:
        if self.tile is None:
            return self.kernel
        return f"{self.kernel} {'x'.join(map(str, self.tile))}"

    @classmethod
    def parse(cls, text: str) -> Choice:
        kernel, _, tile = text.strip().partition(" ")
        try:
            return cls(kernel, tuple(map(int, tile.split("x"))) if tile else None)
        except ValueError:
            raise ValueError(f"expected a choice like 'conv_wgmma 128x3', got {text!r}") from None


_forced: Choice | None = None


def forced_choice() -> Choice | None:
    """What every plan of a convolution must follow: of ``forced``, else of the environment."""
    if _forced is not None:
        return _forced
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    try:
        return Choice.parse(text)
    except ValueError as error:
        raise ValueError(f"{VARIABLE}: {error}") from None


@contextmanager
def forced(choice: Choice) -> Iterator[None]:
    """Plans made meanwhile, by any thread, follow ``choice``."""
    global _forced
    before, _forced = _forced, choice
    try:
        yield
    finally:
        _forced = before
