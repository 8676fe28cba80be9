"""The vocabulary of the plan: kernels, launches, devices, and the fields of the kernels' arguments.

A kernel takes one argument, a struct of 8-byte fields: pointers, then sizes. Their names stand
here and in the kernel's source, in the same order (a test compares them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ELEMENT_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "int8": 1}

# How load_scale of kernels/types.cuh reads a scale.
SCALE_CODES = {"float16": 0, "bfloat16": 1, "float32": 2, "float64": 3}

PACK_POINTERS = ("x", "signs", "mask", "scale_a")
PACK_SIZES = (
    "scale_a_dtype", "clip", "pixels", "plane", "width", "groups", "group_channels",
    "group_words", "stride_image", "stride_channel", "stride_row", "stride_column", "block_words",
)  # fmt: skip
UNPACK_POINTERS = ("packed", "out")
UNPACK_SIZES = ("pixels", "channels", "words")
CONV_POINTERS = ("x", "weight", "out", "scale_a", "scale_w", "bias", "threshold", "flip")
CONV_SIZES = (
    "scale_a_dtype", "scale_w_dtype", "scale_w_stride", "bias_stride", "threshold_stride",
    "flip_stride", "batch", "height", "width", "out_channels", "out_height", "out_width",
    "kernel_rows", "kernel_columns", "stride_rows", "stride_columns", "padding_rows",
    "padding_columns", "dilation_rows", "dilation_columns", "groups", "group_channels",
    "group_words", "pad_value", "channels_last", "has_border", "wide_stores", "channel_tiles",
    "pixel_tiles", "pixel_words", "filter_words", "reach_rows", "reach_columns", "walk_rows",
    "walk_columns", "walk_words",
)  # fmt: skip
WGMMA_SIZES = (
    "scale_a_dtype", "scale_w_dtype", "scale_w_stride", "bias_stride", "threshold_stride",
    "flip_stride", "batch", "height", "width", "out_channels", "out_height", "out_width",
    "padding_rows", "padding_columns", "groups", "group_channels", "group_words", "channel_tiles",
    "pixel_tiles", "slabs", "stages", "stage_bytes", "plane_bytes", "patch_columns",
    "patch_columns_inverse", "patch_rows", "patch_rows_inverse", "out_width_inverse",
    "out_height_inverse", "reach_rows", "reach_columns", "step_rows", "step_columns", "skip_rows",
    "skip_columns", "tap_rows", "tap_columns", "tap_rows_inverse", "tap_columns_inverse",
    "skip_images", "skip_out_rows", "skip_out_columns", "cut_first_rows", "cut_last_rows",
    "cut_first_columns", "cut_last_columns",
)  # fmt: skip


@dataclass(frozen=True)
class ConvCall:
    """What a convolution's launch depends on besides its geometry."""

    out: str  # "float16", "bfloat16", "float32" or "bits"
    pad_value: int
    channels_last: bool
    alignment: int  # bytes, of both packed inputs
    scale_a_dtype: str = "float32"
    scale_w_dtype: str = "float32"
    scale_w_stride: int = 0
    bias_stride: int = 0
    threshold_stride: int = 0
    flip_stride: int = 0


@dataclass(frozen=True)
class Kernel:
    """One compilation of one source."""

    source: str
    macros: tuple[tuple[str, str | int], ...]

    @property
    def entry(self) -> str:
        return self.source.removesuffix(".cu")


@dataclass(frozen=True)
class Launch:
    kernel: Kernel
    blocks: int
    threads: int
    shared_bytes: int
    sizes: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Device:
    """What the plan needs to know of a GPU."""

    capability: tuple[int, int]
    multiprocessors: int
    block_shared_bytes: int
    multiprocessor_shared_bytes: int


def in_order(names: Sequence[str], sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sizes.get(name, 0) for name in names)


def divide_up(value: int, divisor: int) -> int:
    return -(-value // divisor)
