"""From sources to cubins, without a GPU: what the compiler says, and the cache on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from binop._cuda import jit
from binop._cuda.launches import Kernel

_KERNEL = Kernel("unpack.cu", (("ELEMENT", "int8"),))


def test_the_compiler_s_report_is_understood() -> None:
    log = (
        "ptxas info    : Function properties for conv\n"
        "ptxas         .     8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads\n"
        "ptxas info    : Used 122 registers, used 1 barriers\n"
    )
    assert jit.Resources.of_log(log) == jit.Resources(registers=122, local_bytes=24)
    with pytest.raises(RuntimeError, match="did not report"):
        jit.Resources.of_log("")


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
    kernel = _KERNEL
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
        assert jit.cubin(_KERNEL, "sm_80").startswith(b"\x7fELF")
    assert list(tmp_path.iterdir()) == [in_the_way]
