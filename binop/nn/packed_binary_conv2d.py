"""The inference layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from binop.functional import binary_conv2d, binary_conv2d_packed
from binop.nn.binary_conv2d import BinaryConv2d, mean_scale, pad_input
from binop.nn.direct_call import DirectCall, add_bias, call_library, nothing_stands_between
from binop.packing import WORD_BITS, word_count

_ops = torch.ops.binop


class PackedBinaryConv2d(nn.Module):
    """A :class:`BinaryConv2d` for inference: 1-bit weights, no gradients.

    Gives the same values as the layer that it was made from, for float16, bfloat16 and float32
    input (a float64 input is computed in float32 and widened, because the scale is float32).

    Shapes: ``[N, in_channels, H, W]`` -> ``[N, out_channels, P, Q]``, in the dtype of the input;
    channels_last, whatever the input is.

    Buffers:
        weight: int32 ``[O, KH, KW, ceil(C/groups/32)]``: 1/32 of the float32 bytes where
            ``C/groups`` is a multiple of 32.
        scale: float32 ``[O]``, ``scale_a * scale_w`` of the trained layer. It stays float32 under
            ``.half()`` and ``.to(dtype)``.
        bias: ``[O]`` or None, added to the scaled output in its dtype.

    Submodules:
        norm: a BatchNorm2d that the output goes through, or None. In eval mode, on the CPU, for
            float32 and without gradients, the convolution's own last step gives its bits
            (``binop.pack_model(model, fold_norms=True)`` moves it here).

    Made by :meth:`from_float`, or by the constructor (arguments as in ``BinaryConv2d``) and
    ``load_state_dict``; until then every weight is -1 and every scale 1.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    norm: nn.BatchNorm2d | None

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
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        pad_value: int = 0,
    ) -> None:
        super().__init__()
        # BinaryConv2d checks and normalizes the arguments; on meta it allocates nothing.
        layer = BinaryConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,  # type: ignore[arg-type]
            "meta",
            pad_value=pad_value,
        )
        self._adopt_options(layer)
        size = (out_channels, *self.kernel_size, word_count(in_channels // groups))
        self.register_buffer("weight", torch.zeros(size, dtype=torch.int32, device=device))
        self.register_buffer("scale", torch.ones(out_channels, dtype=torch.float32, device=device))
        self.register_buffer(
            "bias", torch.zeros(out_channels, dtype=dtype, device=device) if bias else None
        )

    @classmethod
    def from_float(cls, module: BinaryConv2d) -> PackedBinaryConv2d:
        """The packed form of a trained layer: new buffers, same device."""
        if not isinstance(module, BinaryConv2d):
            raise TypeError(
                f"from_float: module: expected binop.nn.BinaryConv2d, got {type(module)}"
            )
        packed = cls.__new__(cls)
        nn.Module.__init__(packed)
        packed._adopt_options(module)
        with torch.no_grad():
            packed.register_buffer("weight", _ops.pack(module.weight))
            packed.register_buffer("scale", _combined_scale(module))
            bias = None if module.bias is None else module.bias.detach().clone()
            packed.register_buffer("bias", bias)
        return packed.train(module.training)

    def _adopt_options(self, layer: BinaryConv2d) -> None:
        self.in_channels = layer.in_channels
        self.out_channels = layer.out_channels
        self.kernel_size = layer.kernel_size
        self.stride = layer.stride
        self.padding = layer.padding
        self.dilation = layer.dilation
        self.groups = layer.groups
        self.padding_mode = layer.padding_mode
        self.pad_value = layer.pad_value
        self._reversed_padding_repeated_twice = layer._reversed_padding_repeated_twice
        self.register_module("norm", None)
        self._direct_calls: dict[tuple[object, ...], DirectCall] = {}

    def forward(self, input: Tensor) -> Tensor:
        # Another channel count could fill the same number of words and pass unnoticed.
        if input.ndim != 4 or input.shape[1] != self.in_channels:
            raise ValueError(
                f"PackedBinaryConv2d: input: expected [N, {self.in_channels}, H, W], got shape "
                f"{tuple(input.shape)}"
            )
        input, padding = pad_input(self, input)
        group_channels = self.in_channels // self.groups
        in_words = self.groups == 1 or group_channels % WORD_BITS == 0
        if in_words and nothing_stands_between(input):
            y = call_library(self, input, padding)
            if y is not None:
                return y
        options: dict[str, Any] = {
            "stride": self.stride,
            "padding": padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "pad_value": self.pad_value,
        }
        if in_words:
            y = binary_conv2d_packed(
                _ops.pack(input),
                self.weight,
                self.in_channels,
                self.scale,
                out_dtype=input.dtype,
                **options,
            )
        else:
            # Groups that share words cannot be convolved packed: the op packs x per group.
            weight = _ops.unpack(self.weight, group_channels, torch.int8)
            y = binary_conv2d(input, weight, None, self.scale, **options)
            y = y.contiguous(memory_format=torch.channels_last)
        y = add_bias(y, self.bias)
        return y if self.norm is None else self.norm(y)

    def __getstate__(self) -> dict[str, Any]:
        """Without what only this process can use."""
        return {**self.__dict__, "_direct_calls": {}}

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> PackedBinaryConv2d:
        scale = self.scale
        super()._apply(fn, recurse)
        if self.scale.dtype is not torch.float32:
            self.scale = scale.to(self.scale.device)
        # memory_format=torch.channels_last is meant for other tensors of four dimensions.
        self.weight = self.weight.contiguous()
        return self

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"groups={self.groups}, bias={self.bias is not None}, "
            f"padding_mode={self.padding_mode!r}, pad_value={self.pad_value}"
        )


def _combined_scale(layer: BinaryConv2d) -> Tensor:
    """``alpha`` of SEMANTICS 3 for every output channel: one float32 product."""
    one = torch.ones(1, device=layer.weight.device)
    scale_w = mean_scale(layer.weight) if layer.weight_scale == "mean" else layer.scale_w
    scale_a = one if layer.scale_a is None else layer.scale_a
    scale_w = one if scale_w is None else scale_w
    alpha = scale_a.to(torch.float32) * scale_w.to(torch.float32)
    return alpha.expand(layer.out_channels).clone()
