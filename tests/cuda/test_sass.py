"""Machine code, without a GPU: every source compiles for every architecture, the matrix
instruction is there, and the loops stay out of local memory."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from functools import cache
from pathlib import Path

import pytest

from binop._cuda import jit, plan_conv, variants
from binop._cuda.launches import Kernel
from binop._cuda.plan_conv import mma_kernel

_BIT_PRODUCT = "BMMA.168256.AND.POPC"
_LOCAL_MEMORY = re.compile(r"\b(LDL|STL)\b")

# One of every source and element type, and of every tile, copy width and output.
_CHOSEN = [
    Kernel("unpack.cu", (("ELEMENT", "int8"),)),
    Kernel("unpack.cu", (("ELEMENT", "bfloat16"),)),
    Kernel("pack_flat.cu", (("ELEMENT", "bfloat16"), ("MASK", 1))),
    Kernel("pack_flat.cu", (("ELEMENT", "float32"), ("MASK", 0))),
    Kernel("pack_flat.cu", (("ELEMENT", "int8"), ("MASK", 0))),
    Kernel("pack_strided.cu", (("ELEMENT", "float16"), ("MASK", 1))),
    Kernel("pack_planes.cu", (("ELEMENT", "bfloat16"), ("MASK", 0), ("VECTOR", 8))),
    Kernel("pack_planes.cu", (("ELEMENT", "float16"), ("MASK", 1), ("VECTOR", 1))),
    Kernel("conv_simt.cu", (("OUT", "bits"),)),
    Kernel("conv_simt.cu", (("OUT", "bfloat16"),)),
    mma_kernel("bfloat16", plan_conv.LARGE, 4, masked=False),
    mma_kernel("bits", plan_conv.LARGE, 4, masked=False),
    mma_kernel("float32", plan_conv.NARROW, 2, masked=False),
    mma_kernel("float16", plan_conv.SMALL, 1, masked=True),
]


@cache
def _disassembler() -> str:
    packaged = Path(sysconfig.get_path("purelib"), "nvidia", "cu13", "bin", "nvdisasm")
    found = shutil.which("nvdisasm", path=str(packaged.parent)) or shutil.which("nvdisasm")
    assert found, "nvdisasm is missing: pip install nvidia-cuda-nvdisasm"
    return found


def _sass(cubin: bytes, folder: Path) -> list[str]:
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    command = [_disassembler(), "-c", str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.parametrize("arch", jit.ARCHITECTURES)
def test_every_source_compiles_for_every_architecture(arch: str, tmp_path: Path) -> None:
    for compiled in variants.compile_all([arch], _CHOSEN):
        assert compiled.cubin.startswith(b"\x7fELF")
        assert compiled.seconds < 30
        code = _sass(compiled.cubin, tmp_path)
        products = [i for i, line in enumerate(code) if "MMA." in line and "HFMA2" not in line]
        if compiled.kernel.source != "conv_mma.cu":
            assert not products
            assert not any(_LOCAL_MEMORY.search(line) for line in code), compiled.kernel
            continue
        assert products
        if arch not in ("sm_100", "sm_120"):  # these emulate it with 8-bit products
            assert all(_BIT_PRODUCT in code[i] for i in products)
        loop = code[products[0] : products[-1]]
        assert not any(_LOCAL_MEMORY.search(line) for line in loop), compiled.kernel


def test_devices_get_the_architecture_that_runs_on_them() -> None:
    assert jit.architecture((9, 0)) == "sm_90a"
    assert jit.architecture((8, 7)) == "sm_86"
    assert jit.architecture((10, 3)) == "sm_100"
    for capability in ((7, 0), (13, 0)):
        with pytest.raises(RuntimeError, match="no CUDA kernels for compute capability"):
            jit.architecture(capability)


def test_a_kernel_that_does_not_compile_names_itself_and_the_reason() -> None:
    broken = Kernel("unpack.cu", (("ELEMENT", "float8"),))
    with pytest.raises(RuntimeError, match=r"unpack.cu(.|\n)*sm_80(.|\n)*float8"):
        jit.compile_kernel(broken, "sm_80")


def test_the_disk_cache_holds_what_was_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BINOP_CACHE_DIR", str(tmp_path))
    kernel = _CHOSEN[0]
    first = jit.cubin(kernel, "sm_80")
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == first
    monkeypatch.setattr(jit, "compile_kernel", lambda *_: pytest.fail("compiled again"))
    assert jit.cubin(kernel, "sm_80") == first


def test_without_a_cache_directory_it_compiles_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    monkeypatch.setenv("BINOP_CACHE_DIR", str(in_the_way))
    with pytest.warns(UserWarning, match="cannot keep compiled kernels.*BINOP_CACHE_DIR"):
        assert jit.cubin(_CHOSEN[0], "sm_80").startswith(b"\x7fELF")
    assert list(tmp_path.iterdir()) == [in_the_way]
