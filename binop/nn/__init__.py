"""Layers: ``BinaryConv2d`` to train with, ``PackedBinaryConv2d`` to deploy."""

from binop.nn.binary_conv2d import BinaryConv2d
from binop.nn.packed_binary_conv2d import PackedBinaryConv2d

__all__ = ["BinaryConv2d", "PackedBinaryConv2d"]
