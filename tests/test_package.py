"""The package from outside: fresh processes, the command line, what importing costs."""

from __future__ import annotations

import subprocess
import sys

import torch

import binop


def _python(code: str, *flags: str) -> str:
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_needs_no_cupy_and_no_extras() -> None:
    """With CuPy and every optional package blocked, the ops still run."""
    _python(
        "import sys\n"
        "for name in ('cupy', 'cupy_backends', 'matplotlib', 'rich', 'sklearn', 'numpy'):\n"
        "    sys.modules[name] = None\n"
        "import torch, binop\n"
        "layer = binop.nn.BinaryConv2d(8, 4, 3)\n"
        "layer(torch.randn(1, 8, 5, 5)).sum().backward()\n",
        "-W",
        "ignore:Failed to initialize NumPy",
    )


def test_import_is_light() -> None:
    """Nothing heavy comes with binop that did not come with torch."""
    out = _python(
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import binop\n"
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))\n"
        "print(*sorted(m for m in set(sys.modules) - before if m.startswith('torch.')))\n"
    )
    packages, torch_modules = out.splitlines()
    heavy = {"cupy", "matplotlib", "numpy", "rich", "sklearn", "scipy", "sympy", "triton"}
    assert not heavy & set(packages.split())
    assert not {
        m for m in torch_modules.split() if m.startswith(("torch._inductor", "torch._dynamo"))
    }


def test_info() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "binop", "info"], capture_output=True, text=True, check=True
    )
    for part in (binop.__version__, torch.__version__, "cpu ", "cuda", "backend: packed kernels"):
        assert part in done.stdout


def test_command_line_errors() -> None:
    for arguments in ([], ["nonsense"]):
        done = subprocess.run(
            [sys.executable, "-m", "binop", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert "usage: python -m binop" in done.stderr


def test_every_public_name_is_documented() -> None:
    documented = [getattr(binop, name) for name in binop.__all__ if name != "__version__"]
    documented += [binop.functional.binary_conv2d, binop.nn.BinaryConv2d]
    documented += [binop.nn.PackedBinaryConv2d, binop.compat.BinaryConv2dForward]
    for item in documented:
        assert item.__doc__, item


def test_op_schemas_are_the_contract() -> None:
    options = "SymInt[2] stride=[1, 1], SymInt[2] padding=[0, 0], SymInt[2] dilation=[1, 1]"
    options += ", SymInt groups=1, int pad_value=0"
    wanted = {
        "binary_conv2d": f"(Tensor x, Tensor weight, Tensor scale_a, Tensor scale_w, {options}, "
        "float clip=1.) -> Tensor",
        "pack": "(Tensor x) -> Tensor",
        "unpack": "(Tensor packed, SymInt channels, ScalarType dtype) -> Tensor",
        "binary_conv2d_packed": "(Tensor x, Tensor weight, SymInt channels, Tensor scale, "
        f"Tensor? bias=None, {options}, ScalarType out_dtype=6) -> Tensor",
        "binary_conv2d_threshold": "(Tensor x, Tensor weight, SymInt channels, Tensor threshold, "
        f"Tensor flip, {options}) -> Tensor",
    }
    for name, schema in wanted.items():
        assert str(getattr(torch.ops.binop, name).default._schema) == f"binop::{name}{schema}"
