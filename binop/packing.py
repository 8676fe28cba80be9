"""The bit layout of packed tensors: the contract between every backend (no tensor code here).

A packed tensor is a contiguous int32 tensor with the channels last: ``[A, H, W, words]``.
Bit ``i`` of word ``j`` is channel ``32 * j + i``; a set bit is ``+1``, a clear bit ``-1``.
The unused high bits of the last word (its *tail*) are 0 in tensors that ``binop::pack`` made.
The channel count travels beside the tensor, because the tail hides it.
"""

from __future__ import annotations

WORD_BITS = 32


def word_count(channels: int) -> int:
    """Number of int32 words that hold ``channels`` bits."""
    return (channels + WORD_BITS - 1) // WORD_BITS
