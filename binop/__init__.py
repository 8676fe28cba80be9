"""binop: 1-bit convolution for PyTorch.

Importing it registers the ops under ``torch.ops.binop`` and needs neither CuPy nor a GPU.
"""

# autograd, flops, ops, residual and vmap are imported for what they register.
from binop import autograd, compat, flops, functional, inductor, nn, ops, residual, vmap  # noqa: F401
from binop._version import __version__
from binop.conversion import Change, convert, pack_model

__all__ = [
    "Change",
    "__version__",
    "compat",
    "convert",
    "functional",
    "inductor",
    "nn",
    "pack_model",
]
