"""The aarch64 build in an emulator: both of its paths give the bits that the native library does.

It needs a cross compiler and qemu's user mode (Debian: g++-aarch64-linux-gnu, qemu-user-static).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import CASES, Case, can_pack, sprinkle
from compare import assert_same_bits
from configurations import TILED, packed_operands

from binop._cpu import abi, prepare
from binop.checks import check_binary_conv2d
from binop.layout import memory_format

pytestmark = [pytest.mark.aarch64, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
ops = torch.ops.binop
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# In the order of kPaths on aarch64.
NEON, PORTABLE = 0, 1


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    program = tmp_path_factory.mktemp("aarch64") / "run_specs"
    sources = [*sorted((ROOT / "kernels/cpu").glob("*.cpp")), ROOT / "tests/cpu/run_specs.cpp"]
    subprocess.run(
        [
            *("aarch64-linux-gnu-g++", "-std=c++17", "-O2", "-fopenmp", "-ffp-contract=off"),
            *("-static", "-Wall", "-Wextra", f"-I{ROOT / 'kernels/cpu'}"),
            *map(str, sources),
            *("-o", str(program)),
        ],
        check=True,
    )
    return [shutil.which("qemu-aarch64-static") or "qemu-aarch64", str(program)]


def emulate(runner: list[str], request: bytes, threads: int = 1) -> bytes:
    done = subprocess.run(
        [*runner, str(threads)], input=request, capture_output=True, check=True, timeout=300
    )
    assert done.stderr.split() == [b"neon", b"portable"]
    return done.stdout


def buffer(tensor: torch.Tensor | None) -> bytes:
    """A tensor's memory, its size before it."""
    if tensor is None:
        return struct.pack("q", 0)
    count = tensor.untyped_storage().nbytes()
    return struct.pack("q", count) + ctypes.string_at(tensor.untyped_storage().data_ptr(), count)


def compare(output: bytes, wanted: list[torch.Tensor]) -> None:
    at = 0
    for tensor in wanted:
        memory = tensor.new_empty(tensor.numel())
        count = memory.numel() * memory.element_size()
        ctypes.memmove(memory.data_ptr(), output[at : at + count], count)
        at += count
        assert_same_bits(memory.as_strided(tensor.shape, tensor.stride()), tensor)
    assert at == len(output)


def conv_request(
    path: int, spec: abi.ConvSpec, tensors: list[torch.Tensor | None], out: torch.Tensor
) -> bytes:
    spec.path = path
    size = out.numel() * out.element_size()
    return b"".join(
        [struct.pack("q", 0), bytes(spec), *map(buffer, tensors), struct.pack("q", size)]
    )


def floats(case: Case, path: int) -> tuple[bytes, torch.Tensor]:
    x, weight, scale_a, scale_w = case.tensors()
    settings = list(case.options.values())
    geometry = check_binary_conv2d(x, weight, scale_a, scale_w, *settings, 1.0)
    spec = prepare._spec(
        geometry,
        abi.image(x),
        abi.image(weight),
        case.pad_value,
        abi.DTYPES[x.dtype],
        memory_format(x) is torch.channels_last,
        scale_a=scale_a,
        scale_w=scale_w,
    )
    out = ops.binary_conv2d(x, weight, scale_a, scale_w, *settings)
    tensors = [x, weight, scale_a, scale_w, None, None, None]
    return conv_request(path, spec, tensors, out), out


def thresholds(case: Case, path: int) -> tuple[bytes, torch.Tensor]:
    x, weight = packed_operands(case)
    threshold = torch.randint(-9, 9, (case.o,), dtype=torch.int32)
    flip = torch.rand(case.o) < 0.5
    settings = list(case.options.values())
    real, *others = case.tensors()
    geometry = check_binary_conv2d(real, *others, *settings, 1.0)
    spec = prepare._spec(
        geometry,
        abi.packed_image(real.shape),
        abi.packed_image(others[0].shape),
        case.pad_value,
        abi.BITS,
        True,
        threshold=threshold,
        flip=flip,
    )
    out = ops.binary_conv2d_threshold(x, weight, case.c, threshold, flip, *settings)
    return conv_request(path, spec, [x, weight, None, None, None, threshold, flip], out), out


def sums(case: Case, path: int, index: int) -> tuple[bytes, list[torch.Tensor]]:
    """A residual sum: of every dtype, layout and set of steps, as ``index`` has it."""
    x, weight = packed_operands(case)
    real, *others = case.tensors()
    settings = [list(v) if isinstance(v, tuple) else v for v in case.options.values()]
    geometry = check_binary_conv2d(real, *others, *case.options.values(), 1.0)
    scale, norm = torch.randn(case.o), torch.randn(4, case.o)
    size = (case.n, case.o, geometry.out_height, geometry.out_width)
    residual = torch.randn(size).to(DTYPES[index % 3])
    sprinkle(residual, torch.Generator().manual_seed(index))
    # No NaN goes on as floats: which one a sum of two is, differs between processors.
    residual = residual.nan_to_num(nan=1.0)
    if index % 2:
        residual = residual.contiguous(memory_format=torch.channels_last)
    activation = torch.randn(3, case.o) if index % 5 < 3 else None
    shift = torch.randn(case.o) if index % 7 < 4 else None
    relu = index % 4 < 2
    spec = prepare._spec(
        geometry,
        abi.packed_image(real.shape),
        abi.packed_image(others[0].shape),
        case.pad_value,
        abi.DTYPES[residual.dtype],
        True,
        abi.residual(residual, relu),
        scale_w=scale,
    )
    spec.path = path
    rest = (scale, norm, residual, activation, shift)
    outs = ops.binary_conv2d_residual(x, weight, case.c, *rest, relu, *settings)
    tensors = [x, weight, *rest]
    sizes = [struct.pack("q", out.numel() * out.element_size()) for out in outs]
    request = b"".join([struct.pack("q", 3), bytes(spec), *map(buffer, tensors), *sizes])
    return request, list(outs)


def convolutions() -> Iterator[Case]:
    for index, case in enumerate([*TILED, *CASES]):
        if case.n > 0:
            yield replace(
                case,
                dtype=DTYPES[index % 4],
                channels_last=index % 8 < 4,
                pad_value=case.pad_value or index % 3 - 1,
            )


@pytest.mark.parametrize("path", [NEON, PORTABLE])
def test_convolutions(runner: list[str], path: int) -> None:
    cases = list(convolutions())
    made = [floats(case, path) for case in cases]
    made += [thresholds(case, path) for case in cases if can_pack(case)]
    output = emulate(runner, b"".join(request for request, _ in made))
    compare(output, [out for _, out in made])


@pytest.mark.parametrize("path", [NEON, PORTABLE])
def test_residual_sums(runner: list[str], path: int) -> None:
    cases = [case for case in convolutions() if can_pack(case)]
    made = [sums(case, path, index) for index, case in enumerate(cases)]
    output = emulate(runner, b"".join(request for request, _ in made))
    compare(output, [out for _, outs in made for out in outs])


@pytest.mark.parametrize("path", [NEON, PORTABLE])
def test_deep_sums_on_threads(runner: list[str], path: int) -> None:
    made = [
        floats(Case("", 70_000, 3, h=1, w=2, kernel=(1, 1), padding=(0, 0)), path),
        floats(Case("", 128, 64, h=14, w=14, n=2), path),
    ]
    output = emulate(runner, b"".join(request for request, _ in made), threads=2)
    compare(output, [out for _, out in made])


@pytest.mark.parametrize("path", [NEON, PORTABLE])
def test_pack_and_unpack(runner: list[str], path: int) -> None:
    requests, wanted = [], []
    for index, channels in enumerate((1, 31, 32, 33, 64, 100)):
        dtype = DTYPES[index % 4]
        x = Case("", channels, 1, h=7, w=9, n=2, dtype=dtype).tensors()[0]
        for form in (x, x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3)):
            scale = torch.tensor([0.7])
            signs, mask = ops.pack_with_mask(form, scale, 1.5)
            spec = abi.PackSpec(path, abi.image(form), 1.5, abi.DTYPES[scale.dtype])
            size = struct.pack("q", 4 * signs.numel())
            requests += [struct.pack("q", 1), bytes(spec), buffer(form), buffer(scale), size]
            wanted += [signs, mask]
        unpacked = ops.unpack(signs, channels, dtype)
        pixels = signs.numel() // signs.shape[-1]
        spec = abi.UnpackSpec(path, pixels, channels, abi.DTYPES[dtype])
        size = struct.pack("q", unpacked.numel() * unpacked.element_size())
        requests += [struct.pack("q", 2), bytes(spec), buffer(signs), size]
        wanted.append(unpacked)
    compare(emulate(runner, b"".join(requests)), wanted)


def test_the_machine_code_counts_in_vectors(runner: list[str]) -> None:
    code = subprocess.run(
        ["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", runner[1]],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LC_ALL": "C"},
    ).stdout
    assert code.count("cnt\tv") > 100
