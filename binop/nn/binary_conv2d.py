"""The trainable layer."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binop import functional
from binop.functional import Size2d

WeightScale = Literal["mean", "none", "learned"]
InputScale = Literal["none", "learned"]


class BinaryConv2d(nn.Conv2d):
    r"""2-D convolution of the signs of its input and of its weight, scaled per output channel.

    A drop-in for ``torch.nn.Conv2d`` with the same parameters ``weight`` (float, trained through
    the straight-through estimator) and ``bias``. See :func:`binop.functional.binary_conv2d` for
    the exact semantics and the gradients.

    Shapes: ``[N, in_channels, H, W]`` -> ``[N, out_channels, P, Q]``, dtype and memory format of
    the input. The input is a real activation: it is binarized inside.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype: as in ``torch.nn.Conv2d``. The bias is added to the
            scaled output, in its dtype. ``padding_mode`` other than ``"zeros"`` pads the real
            input before it is binarized, and ``pad_value`` does not come into play.
        pad_value: what a padded element counts as in the sum: 0 (nothing; the default), +1, -1.
        clip: gradients pass where ``abs(x) <= clip * abs(scale_a)``; ``math.inf`` passes all, for
            use with a binarizer of your own in front (ApproxSign, SwishSign, ...).
        weight_scale: the factor of each output channel.
            ``"mean"`` (default): the mean of ``abs(weight)`` over the filter, the optimal scale
            of XNOR-Net (arXiv:1603.05279, eq. 6). It is detached: gradients treat it as a
            constant, as Bi-Real Net (arXiv:1808.00278) and ReActNet (arXiv:2003.03488) do;
            XNOR-Net's extra 1/n term vanishes with the filter size.
            ``"learned"``: a parameter ``scale_w`` ``[out_channels]`` that starts at that mean
            (XNOR-Net++, arXiv:1909.13863).
            ``"none"``: 1.
        input_scale: ``"none"`` (1, the default) or ``"learned"``: a parameter ``scale_a`` ``[1]``
            that starts at 1; it also scales the clip range.

    Raises:
        ValueError: for a ``pad_value``, ``clip``, ``weight_scale`` or ``input_scale`` outside of
            the above, or arguments that ``torch.nn.Conv2d`` refuses.
    """

    scale_w: nn.Parameter | None
    scale_a: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        pad_value: int = 0,
        clip: float = 1.0,
        weight_scale: WeightScale = "mean",
        input_scale: InputScale = "none",
    ) -> None:
        _check_options(pad_value, clip, weight_scale, input_scale)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self.pad_value = pad_value
        self.clip = clip
        self.weight_scale = weight_scale
        self.input_scale = input_scale
        self._register_scales()

    @classmethod
    def from_float(cls, module: nn.Conv2d, **options: Any) -> BinaryConv2d:
        """A binary layer over the parameters of a float one (shared, not copied).

        ``options`` are the keyword-only arguments of the constructor.
        """
        if not isinstance(module, nn.Conv2d):
            raise TypeError(f"from_float: module: expected torch.nn.Conv2d, got {type(module)}")
        with torch.device("meta"):  # The parameters are replaced: allocate and draw none.
            binary = cls(
                module.in_channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                module.dilation,  # type: ignore[arg-type]
                module.groups,
                module.bias is not None,
                module.padding_mode,
                **options,
            )
        binary.weight = module.weight
        binary.bias = module.bias
        binary._register_scales()
        return binary.train(module.training)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        # Conv2d's constructor calls this before there are scales.
        if hasattr(self, "weight_scale"):
            self._register_scales()

    def _register_scales(self) -> None:
        scale_w = scale_a = None
        if self.weight_scale == "learned":
            scale_w = nn.Parameter(mean_scale(self.weight).to(self.weight.dtype))
        if self.input_scale == "learned":
            scale_a = nn.Parameter(self.weight.new_ones(1))
        self.register_parameter("scale_w", scale_w)
        self.register_parameter("scale_a", scale_a)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        input, padding = pad_input(self, input)
        y = functional.binary_conv2d(
            input,
            weight,
            self.scale_a,
            mean_scale(weight) if self.weight_scale == "mean" else self.scale_w,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
            pad_value=self.pad_value,
            clip=self.clip,
        )
        return y if bias is None else y + bias.to(y.dtype).reshape(-1, 1, 1)

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, pad_value={self.pad_value}, clip={self.clip}, "
            f"weight_scale={self.weight_scale!r}, input_scale={self.input_scale!r}"
        )


def pad_input(layer: Any, input: Tensor) -> tuple[Tensor, Size2d | str]:
    """Applies the layer's ``padding_mode``: the input to convolve, and the padding left to do."""
    if layer.padding_mode == "zeros":
        return input, layer.padding
    pads = layer._reversed_padding_repeated_twice
    return F.pad(input, pads, mode=layer.padding_mode), 0


def mean_scale(weight: Tensor) -> Tensor:
    """Mean of ``abs(weight)`` per filter, detached: ``[O]``, float32 (float64 for float64).

    Summed in float64, where the sum of a filter of float32 is all but exact, and rounded once:
    the order of summation, and with it the backend, does not show in the result.
    """
    mean = weight.detach().to(torch.float64).abs().mean((1, 2, 3))
    return mean.to(torch.promote_types(weight.dtype, torch.float32))


def _check_options(pad_value: int, clip: float, weight_scale: str, input_scale: str) -> None:
    for argument, value, wanted in (
        ("pad_value", pad_value, (-1, 0, 1)),
        ("weight_scale", weight_scale, ("mean", "none", "learned")),
        ("input_scale", input_scale, ("none", "learned")),
    ):
        if value not in wanted:
            raise ValueError(f"BinaryConv2d: {argument}: expected one of {wanted}, got {value!r}")
    if math.isnan(clip) or clip < 0:
        raise ValueError(f"BinaryConv2d: clip: expected a number >= 0 or inf, got {clip}")
