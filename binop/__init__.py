"""binop: 1-bit convolution for PyTorch.

Importing it registers the ops under ``torch.ops.binop`` and needs neither CuPy nor a GPU.
"""

# What is not in __all__ is imported for what it registers.
from binop import (  # noqa: F401
    autograd,
    compat,
    eager,
    flops,
    functional,
    inductor,
    nn,
    ops,
    pack_and_convolve,
    residual,
    stem,
    vmap,
)
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
