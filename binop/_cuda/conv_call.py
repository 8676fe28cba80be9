"""What every plan of a convolution starts from: the call beside its geometry, and the sizes that
all convolution kernels take. No tensors and no CuPy here."""

from __future__ import annotations

from dataclasses import dataclass

from binop._cuda.launches import SCALE_CODES
from binop.geometry import Conv2dGeometry
from binop.packing import word_count


@dataclass(frozen=True)
class ResidualSum:
    """What follows a convolution in ``binary_conv2d_residual``."""

    relu: bool
    activation: bool
    shift: bool
    aligned: bool = True  # the residual, to 16 bytes

    @property
    def constants(self) -> int:
        """Float32 operands of a channel, its scale and an addend among them."""
        return 6 + 3 * self.activation + self.shift


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
    bias: bool = False
    bias_stride: int = 0
    threshold_stride: int = 0
    flip_stride: int = 0
    residual: ResidualSum | None = None


def out_pixels(geometry: Conv2dGeometry) -> int:
    return geometry.batch * geometry.out_height * geometry.out_width


def conv_sizes(geometry: Conv2dGeometry, call: ConvCall) -> dict[str, int]:
    """By the names of ``CONV_SIZES``."""
    return {
        "scale_a_dtype": SCALE_CODES[call.scale_a_dtype],
        "scale_w_dtype": SCALE_CODES[call.scale_w_dtype],
        "scale_w_stride": call.scale_w_stride,
        "bias_stride": call.bias_stride,
        "threshold_stride": call.threshold_stride,
        "flip_stride": call.flip_stride,
        "batch": geometry.batch,
        "height": geometry.height,
        "width": geometry.width,
        "out_channels": geometry.out_channels,
        "out_height": geometry.out_height,
        "out_width": geometry.out_width,
        "kernel_rows": geometry.kernel[0],
        "kernel_columns": geometry.kernel[1],
        "stride_rows": geometry.stride[0],
        "stride_columns": geometry.stride[1],
        "padding_rows": geometry.padding[0],
        "padding_columns": geometry.padding[1],
        "dilation_rows": geometry.dilation[0],
        "dilation_columns": geometry.dilation[1],
        "groups": geometry.groups,
        "group_channels": geometry.group_channels,
        "group_words": word_count(geometry.group_channels),
        "pad_value": call.pad_value,
        "channels_last": int(call.channels_last),
    }
