"""OpenVINO's BinaryConvolution as a peer on the CPU: floats in, floats out, weights of one bit.

FakeQuantize to two levels in front (what it does within 1e-6 of zero is its own rounding), the
convolution of mode ``xnor-popcount``, and a product per channel, which it fuses. All contiguous.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from binop.bench.cases import ConvCase
from binop.bench.clocks import Call

_ZERO = 1e-6


def available() -> bool:
    return importlib.util.find_spec("openvino") is not None


def call(case: ConvCase, x: Tensor, weight: Tensor, alpha: Tensor) -> Call:
    """A call of the compiled model on ``x``, with as many threads as torch has now."""
    # Imported here: it is optional, and takes a second.
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    octets = _octets(weight).numpy()
    model = _model(openvino, case, octets, alpha)
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    image = x.numpy()
    request.set_input_tensor(openvino.Tensor(image, shared_memory=True))

    def infer(memory: object = (octets, image)) -> Tensor:  # which OpenVINO does not keep alive
        # A tensor of its own for every call, as the other contenders have.
        size = (case.n, case.o, case.geometry.out_height, case.geometry.out_width)
        y = torch.empty(size)
        request.set_output_tensor(openvino.Tensor(y.numpy(), shared_memory=True))
        request.infer()
        return y

    return infer


def _model(openvino: Any, case: ConvCase, octets: Any, alpha: Tensor) -> Any:
    ops = openvino.opset8

    def constant(values: Tensor) -> Any:
        return ops.constant(values.numpy())

    sign = torch.ones(())
    image = ops.parameter([case.n, case.c, case.size, case.size], openvino.Type.f32)
    signs = ops.fake_quantize(
        image, constant(-_ZERO * sign), constant(_ZERO * sign), constant(-sign), constant(sign), 2
    )
    filters = openvino.Tensor(octets, [case.o, case.c, *case.geometry.kernel], openvino.Type.u1)
    dots = openvino.opset1.binary_convolution(
        signs,
        openvino.op.Constant(filters),
        [case.stride] * 2,
        [case.padding] * 2,
        [case.padding] * 2,
        [1, 1],
        "xnor-popcount",
        float(case.pad_value),
    )
    return openvino.Model([ops.multiply(dots, constant(alpha.reshape(1, -1, 1, 1)))], [image])


def _octets(weight: Tensor) -> Tensor:
    """The signs of ``weight`` in its order, eight to a byte, the first in the lowest bit."""
    bits = (weight >= 0).flatten()
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, -len(bits) % 8))
    return (padded.reshape(-1, 8) << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)
