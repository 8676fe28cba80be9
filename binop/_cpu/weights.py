"""Packed weights in the order in which the kernels read them, kept from call to call.

A kept weight is used only while the tensor's words equal the copy that was taken with it: the
library compares them in every call (a few percent of a convolution's time). Version counters
would be cheaper but not safe: ``.data``, numpy views and shared memory write past them, and
inference tensors have none. So nothing here depends on which tensor lies at an address.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

# Bytes that all kept weights may have together; beyond it the oldest go. Enough for models of
# some 700 million binary weights.
_MOST_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class PreparedWeight:
    raw: Tensor
    prepared: Tensor
    raw_pointer: int
    prepared_pointer: int

    @property
    def bytes(self) -> int:
        return 4 * self.raw.numel() + self.prepared.numel()


_kept: dict[Hashable, PreparedWeight] = {}
_lock = threading.Lock()


def find(key: Hashable) -> PreparedWeight | None:
    return _kept.get(key)


def keep(
    key: Hashable, weight: Tensor, size: int, prepare: Callable[[int, int], None]
) -> PreparedWeight:
    """Copies ``weight``, has ``prepare(from, to)`` write ``size`` bytes, and keeps both."""
    raw = weight.clone()
    prepared = torch.empty(size, dtype=torch.uint8)
    entry = PreparedWeight(raw, prepared, raw.data_ptr(), prepared.data_ptr())
    prepare(entry.raw_pointer, entry.prepared_pointer)
    with _lock:
        _kept.pop(key, None)
        _kept[key] = entry
        total = sum(kept.bytes for kept in _kept.values())
        while total > _MOST_BYTES and len(_kept) > 1:
            total -= _kept.pop(next(iter(_kept))).bytes
    return entry


def forget() -> None:
    """Frees all that is kept."""
    with _lock:
        _kept.clear()
