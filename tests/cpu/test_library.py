"""The CPU library from outside: that it is there, which path runs, and what processes and threads
do to it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import reference_ops
import torch
from cases import Case
from compare import assert_same_bits
from configurations import packed_operands
from cpu_backends import CPU_PATHS, compiler, serve_cpu_by

from binop._cpu import library, weights

ROOT = Path(__file__).parents[2]
ops = torch.ops.binop


def python(code: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, *flags, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=variables,
    )


def test_it_was_built_where_there_is_a_compiler() -> None:
    if compiler() is not None:
        assert library.obstacle() is None


def test_the_fastest_path_is_the_default() -> None:
    wanted = os.environ.get(library.ISA_VARIABLE)
    runnable = [name for name in CPU_PATHS if name in library.paths()]
    assert list(library.paths()) == runnable
    assert library.default_path() == (wanted or runnable[0])


_ONE_CALL = "import torch, binop; print(torch.ops.binop.pack(torch.ones(1, 3, 1, 1)).item())"


def test_the_environment_forces_a_path() -> None:
    done = python(_ONE_CALL, BINOP_CPU_ISA="portable")
    assert (done.stdout, done.stderr, done.returncode) == ("7\n", "", 0)
    info = subprocess.run(
        [sys.executable, "-m", "binop", "info"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "BINOP_CPU_ISA": "portable"},
    ).stdout
    assert "backend: packed kernels, portable" in info


def test_a_path_that_cannot_run_is_an_error() -> None:
    done = python(_ONE_CALL, BINOP_CPU_ISA="avx1024")
    assert done.returncode == 1
    assert re.search(
        r"ValueError: BINOP_CPU_ISA: expected one of .*portable on this machine, got 'avx1024'",
        done.stderr,
    )


_WITHOUT = """
import warnings, torch, binop
from binop._cpu import library
library.file = lambda: None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        assert torch.ops.binop.pack(torch.ones(1, 3, 1, 1)).item() == 7
        assert torch.ops.binop.unpack(torch.ones(1, 1, 1, 1).int(), 1, torch.int8).item() == 1
print(*(str(warning.message) for warning in caught), sep="\\n")
print(*__import__("binop._info")._info.lines(), sep="\\n")
"""


def test_without_it_one_warning_and_the_reference() -> None:
    done = python(_WITHOUT)
    assert done.returncode == 0, done.stderr
    warning, *info = done.stdout.splitlines()
    assert warning.startswith("binop runs on cpu through plain torch, which is slow: its library")
    assert "C++ compiler" in warning
    assert any("no faster one: its library was not built" in line for line in info)


def test_a_file_that_is_no_library_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "_library.so"
    broken.write_bytes(b"nothing")
    monkeypatch.setattr(library, "file", lambda: broken)
    with pytest.raises(library.MissingLibraryError, match=r"does not load: .*_library\.so"):
        library.load.__wrapped__()


def test_another_build_can_be_named() -> None:
    done = python(_ONE_CALL, BINOP_CPU_LIBRARY=str(library.file()))
    assert (done.stdout, done.stderr) == ("7\n", "")
    done = python(_ONE_CALL, BINOP_CPU_LIBRARY="/no/library.so")
    assert done.stdout == "7\n"
    assert "its library does not load: /no/library.so" in done.stderr


def test_installing_without_a_compiler_succeeds(tmp_path: Path) -> None:
    """As an installer runs it; the compiler that it is told to use does not exist."""
    done = subprocess.run(
        [
            *(sys.executable, "setup.py", "build_ext"),
            *("--build-lib", str(tmp_path / "lib")),
            *("--build-temp", str(tmp_path / "temp")),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "CC": "/no/compiler", "CXX": "/no/compiler"},
    )
    assert done.returncode == 0, done.stderr
    assert "binop._cpu._library" in done.stdout + done.stderr
    assert not list(tmp_path.glob("lib/**/*.so"))


_TEAM = """
import os, torch, binop
from torch.utils.data import DataLoader, Dataset
torch.set_num_threads(2)
ops = torch.ops.binop
torch.manual_seed(0)
x, weight, scale = torch.randn(2, 128, 28, 28), torch.randn(128, 128, 3, 3), torch.rand(128)
def call():
    return ops.binary_conv2d(x, weight, torch.ones(()), scale, padding=[1, 1])
wanted = call()  # the pool of threads exists from here on
"""


def test_a_forked_child_computes() -> None:
    # Not by torch.equal: torch's own team would wait for ever in the child.
    code = """
wanted = call().numpy().tobytes()
child = os.fork()
if child == 0:
    os._exit(0 if call().numpy().tobytes() == wanted else 3)
assert os.waitpid(child, 0)[1] == 0
assert call().numpy().tobytes() == wanted
"""
    done = python(_TEAM + code, "-W", "ignore::DeprecationWarning")
    assert done.returncode == 0, done.stderr


def test_data_loader_workers_compute() -> None:
    code = """
class Filtered(Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return call()
for batch in DataLoader(Filtered(), batch_size=2, num_workers=2, multiprocessing_context="fork"):
    assert all(torch.equal(one, wanted) for one in batch)
"""
    done = python(_TEAM + code, "-W", "ignore::DeprecationWarning")
    assert done.returncode == 0, done.stderr


def test_one_pool_of_threads_with_torch() -> None:
    """A team of the library's adds no thread to those that torch's own has started."""
    code = """
import os, torch, binop
torch.set_num_threads(3)
packed = torch.ones(8, 28, 28, 4, dtype=torch.int32)
weight, one = torch.ones(128, 3, 3, 4, dtype=torch.int32), torch.ones(1)
def count():
    return len(os.listdir("/proc/self/task"))
alone = count()
torch.randn(1 << 22).relu_()
with_torch = count()
assert with_torch >= alone + 2, (alone, with_torch)
for _ in range(5):
    torch.ops.binop.binary_conv2d_packed(packed, weight, 128, one)
assert count() == with_torch, (alone, with_torch, count())
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_many_python_threads() -> None:
    failures: list[BaseException] = []
    case = Case("", 64, 48, h=24, w=24, n=2)
    operands = [packed_operands(case, seed) for seed in range(2)]
    scale = torch.rand(48)
    wanted = [
        reference_ops.binary_conv2d_packed(x, weight, 64, scale, padding=(1, 1))
        for x, weight in operands
    ]

    def work(seed: int) -> None:
        try:
            for turn in range(30):
                x, weight = operands[(seed + turn) % 2]
                got = ops.binary_conv2d_packed(x, weight, 64, scale, padding=(1, 1))
                assert_same_bits(got, wanted[(seed + turn) % 2])
                image = torch.randn(1, 33 + seed, 9, 9)  # a shape of its own
                assert_same_bits(ops.pack(image), reference_ops.pack(image))
        except BaseException as failure:
            failures.append(failure)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        torch.set_num_threads(before)
    assert failures == []


def _call(weight: torch.Tensor) -> torch.Tensor:
    x = packed_operands(Case("", 70, 1, n=2), 1)[0]
    return ops.binary_conv2d_packed(x, weight, 70, torch.ones(1), padding=(1, 1))


def _wanted(weight: torch.Tensor) -> torch.Tensor:
    x = packed_operands(Case("", 70, 1, n=2), 1)[0]
    return reference_ops.binary_conv2d_packed(x, weight, 70, torch.ones(1), padding=(1, 1))


def test_weights_may_change_by_ways_that_leave_no_trace() -> None:
    weight, other = (packed_operands(Case("", 70, 40), seed)[1] for seed in (2, 3))
    assert_same_bits(_call(weight), _wanted(weight))
    weight[7, 2, 1, 0] ^= 1 << 13
    assert_same_bits(_call(weight), _wanted(weight))
    version = weight._version
    weight.data[39, 2, 2, 1] ^= 1
    weight.numpy()[0, 0, 0, 0] ^= 1
    assert weight._version == version
    assert_same_bits(_call(weight), _wanted(weight))
    weight.data.copy_(other)
    assert_same_bits(_call(weight), _wanted(other))
    with torch.inference_mode():
        inference = other.clone()
        assert_same_bits(_call(inference), _wanted(inference))
        inference += 1
        assert_same_bits(_call(inference), _wanted(inference))


def test_kept_weights_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    weights.forget()
    monkeypatch.setattr(weights, "_MOST_BYTES", 3 * 40 * 9 * 3 * 4)
    many = [packed_operands(Case("", 70, 40), seed)[1] for seed in range(8)]
    for weight in many + many:
        assert_same_bits(_call(weight), _wanted(weight))
    assert 0 < len(weights._kept) < len(many)
    weights.forget()
    assert not weights._kept


def test_an_unknown_path_is_refused() -> None:
    with (
        pytest.raises(ValueError, match=r"isa: expected one of .*portable, got 'mmx'"),
        serve_cpu_by("mmx"),
    ):
        pass
