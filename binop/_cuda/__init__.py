"""The CUDA backend: kernels from ``kernels/``, compiled by NVRTC and launched through CuPy on
torch's tensors and streams.

``sources`` finds the kernels, ``jit`` compiles and loads them, ``plan_pack`` and ``plan_conv``
choose one for a call, ``launch`` starts it, ``prepare`` joins these per shape, and ``ops`` has the
op functions. Importing this package imports neither CuPy nor ``ops``.
"""

from __future__ import annotations

import importlib.util

import torch


def status(device: int = 0) -> str | None:
    """Why this backend cannot serve a device, or ``None`` if it can."""
    if not torch.cuda.is_available():
        built = torch.version.cuda is not None
        return "torch sees no CUDA device" if built else "this torch is built without CUDA"
    if importlib.util.find_spec("cupy") is None:
        major = (torch.version.cuda or "").partition(".")[0]
        return f"CuPy is not installed (pip install cupy-cuda{major}x)"
    from binop._cuda import jit, sources

    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
        jit.architecture(torch.cuda.get_device_capability(device))
        sources.directory()
    except (ImportError, RuntimeError) as error:
        return str(error)
    return None
