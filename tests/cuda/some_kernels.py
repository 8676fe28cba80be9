"""Builds kernels of a given tile, as a plan would, for tests of machine code."""

from __future__ import annotations

from dataclasses import replace

from test_plan import CALL, layer
from test_plan_wgmma import H200

from binop._cuda import plan_wgmma_in_place
from binop._cuda.conv_call import ResidualSum
from binop._cuda.launches import Kernel
from binop._cuda.plan_stem import StemCall, StemTile, stem_kernel
from binop._cuda.plan_wgmma import WgmmaTile, wgmma_kernel
from binop._cuda.plan_wgmma_in_place import InPlaceTile
from binop._cuda.plan_wgmma_rows import RowsTile, wgmma_rows_kernel

PLAIN_SUM = ResidualSum(relu=False, activation=False, shift=False)
FULL_SUM = ResidualSum(relu=True, activation=True, shift=True)
IMAGENET_STEM = (3, 7, 2, StemCall("bfloat16", False, norm=True))
VGG_STEM = (3, 3, 1, StemCall("bfloat16", False, packed=True))


def wgmma(
    out: str,
    channels: int,
    kernel: int,
    tile: WgmmaTile,
    *,
    last: bool = True,
    bias: bool = False,
    residual: ResidualSum | None = None,
) -> Kernel:
    geometry = replace(layer(channels, 28, tile.channels), kernel=(kernel, kernel))
    call = replace(CALL, out=out, channels_last=last, bias=bias, residual=residual)
    return wgmma_kernel(geometry, call, tile)


def in_place(
    out: str, channels: int, kernel: int, tile: InPlaceTile, *, bias: bool = False
) -> Kernel:
    geometry = replace(
        layer(channels, 28, tile.channels), kernel=(kernel,) * 2, padding=(kernel // 2,) * 2
    )
    call = replace(CALL, out=out, bias=bias)
    return plan_wgmma_in_place.plan_wgmma_in_place(geometry, call, H200, tile).kernel


def rows(
    out: str,
    channels: int,
    kernel: int,
    tile: RowsTile,
    *,
    last: bool = True,
    bias: bool = False,
    residual: ResidualSum | None = None,
) -> Kernel:
    geometry = replace(layer(channels, 28, tile.channels), kernel=(kernel, kernel))
    call = replace(CALL, out=out, channels_last=last, bias=bias, residual=residual)
    return wgmma_rows_kernel(geometry, call, tile)


def stem(channels: int, kernel: int, stride: int, call: StemCall, tile: StemTile) -> Kernel:
    geometry = replace(layer(channels, 224, 64), kernel=(kernel, kernel), stride=(stride, stride))
    return stem_kernel(geometry, call, tile)


# One of every source and element type, and of every tile and output.
