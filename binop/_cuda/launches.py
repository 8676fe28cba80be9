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

PACK_POINTERS = ("x", "signs", "mask", "scale_a", "filters", "filter_bits")
PACK_SIZES = (
    "scale_a_dtype", "clip", "pixels", "plane", "width", "groups", "group_channels",
    "group_words", "stride_image", "stride_channel", "stride_row", "stride_column", "block_words",
    "word_blocks", "by_word_blocks", "by_group_words", "by_plane",
    "filter_blocks", "filter_count", "filter_channels", "filter_rows", "filter_columns",
    "filter_stride", "filter_stride_channel", "filter_stride_row", "filter_stride_column",
    "filter_element_bytes", "filter_infinity", "filter_minus_zero", "by_filter_words",
)  # fmt: skip
UNPACK_POINTERS = ("packed", "out")
UNPACK_SIZES = ("pixels", "channels", "words")
CONV_POINTERS = ("x", "weight", "out", "scale_a", "scale_w", "bias", "threshold", "flip")
# What the kernels conv_wgmma* take before these for a residual sum.
RESIDUAL_POINTERS = ("signs", "residual", "norm", "activation", "shift")
CONV_SIZES = (
    "scale_a_dtype", "scale_w_dtype", "scale_w_stride", "bias_stride", "threshold_stride",
    "flip_stride", "batch", "height", "width", "out_channels", "out_height", "out_width",
    "kernel_rows", "kernel_columns", "stride_rows", "stride_columns", "padding_rows",
    "padding_columns", "dilation_rows", "dilation_columns", "groups", "group_channels",
    "group_words", "pad_value", "channels_last",
)  # fmt: skip
# What conv_wgmma and conv_wgmma_in_place take after CONV_SIZES.
WGMMA_SIZES = (
    "walkers", "walkers_inverse", "group_channel_tiles", "group_channel_tiles_inverse",
    "out_per_group", "pixel_tiles", "slabs", "stages", "stage_bytes", "copied_bytes",
    "plane_bytes",
    "patch_columns", "patch_columns_inverse", "patch_rows", "patch_rows_inverse",
    "by_patch_columns", "by_patch_rows", "out_width_inverse", "out_height_inverse",
    "reach_places", "reach_rows", "reach_columns", "step_rows", "step_columns", "skip_rows",
    "skip_columns", "tap_rows", "tap_columns", "tap_rows_inverse", "tap_columns_inverse",
    "skip_images", "skip_out_rows", "skip_out_columns", "cut_first_rows", "cut_last_rows",
    "cut_first_columns", "cut_last_columns", "column_classes_inverse",
)  # fmt: skip
# What conv_wgmma_rows takes after CONV_SIZES.
WGMMA_ROWS_SIZES = (
    "channel_tiles", "channel_tiles_inverse", "pixel_tiles", "walkers", "step_pixels",
    "step_words", "stages", "stage_bytes", "row_bytes", "pitch_bytes", "first_bytes",
    "inside_bytes", "image_rows", "by_image_rows", "by_out_width", "by_out_height", "by_plane",
    "spots_bytes", "image_bytes", "step_spots", "step_images", "step_rows", "skip_rows",
    "reach_rows", "window_rows", "reach_columns", "tap_rows_inverse", "tap_columns_inverse",
    "cut_first_rows", "cut_last_rows", "cut_first_columns", "cut_last_columns",
)  # fmt: skip
# What conv_mma takes after CONV_SIZES.
MMA_SIZES = (
    "pixels", "channel_tiles", "pixel_tiles", "walkers", "copy_words", "pixel_words",
    "filter_words", "patch_per_tap", "segments", "segment_entries", "tap_entries", "segment_step",
    "padded_height", "padded_width", "padded_plane", "tap_rows_apart", "tap_columns_apart",
    "thread_rows", "thread_columns", "fold", "tap_chunks", "folds", "stage_planes", "stages",
    "resident", "slots", "patch_bytes", "filter_bytes", "filter_pitch", "pair_bytes",
    "row_classes", "column_classes", "first_row_class", "first_column_class", "by_plane",
    "by_width", "by_padded_plane", "by_padded_width", "by_dilation_rows", "by_dilation_columns",
    "by_group_words", "by_kernel_columns", "by_stage_planes", "by_folds", "ring_at", "set_bits_at",
    "sources_at", "table_at", "spots_at", "rows_at", "taps_at", "chunks_at", "channels_at",
    "scratch_at", "barriers_at",
)  # fmt: skip
# What conv_fused takes after CONV_SIZES.
FUSED_SIZES = (
    "x_stride_image", "x_stride_channel", "x_stride_row", "x_stride_column", "x_bytes",
    "x_infinity", "x_minus_zero", "weight_stride", "weight_stride_channel", "weight_stride_row",
    "weight_stride_column", "weight_bytes", "weight_infinity", "weight_minus_zero",
)  # fmt: skip

STEM_POINTERS = ("x", "weight", "out", "bias", "norm", "low", "high")
STEM_SIZES = (
    "stride_image", "stride_channel", "stride_row", "stride_column", "weight_stride",
    "weight_stride_channel", "weight_stride_row", "weight_stride_column", "bias_stride", "height",
    "width", "padding_rows", "padding_columns", "out_channels", "out_height", "out_width",
    "out_pixel", "out_row", "tiles", "by_tiles_an_image", "tiles_an_image", "by_tiles_a_row",
    "tiles_a_row", "walkers", "channel_groups", "block_channel_tiles",
)  # fmt: skip

# The bit patterns of infinity and -0.0, by which signs are decided (kernels/types.cuh).
SPECIALS = {
    "float16": (0x7C00, 0x8000),
    "bfloat16": (0x7F80, 0x8000),
    "float32": (0x7F800000, 0x80000000),
    "int8": (0x7F, 0),
}


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
    # The kernel may begin before the launch before it has ended (kernels/overlap.cuh).
    overlaps: bool = False


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


def reciprocal(divisor: int) -> int:
    """What ``divide_by`` of kernels/types.cuh divides by: for ``0 <= value < 2**31``,
    ``2 * value * multiplier >> 32 + shift == value // divisor``, with the multiplier in the low 32
    bits and the shift above (Granlund and Montgomery 1994, figure 4.1)."""
    shift = (divisor - 1).bit_length()
    return shift << 32 | divide_up(1 << 31 + shift, divisor)
