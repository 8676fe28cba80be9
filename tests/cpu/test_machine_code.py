"""The machine code of the CPU library: which instructions stand where, and what it exports."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from cpu_backends import compiler

from binop._cpu import library


@pytest.fixture(scope="module")
def machine_code() -> dict[str, str]:
    """Instructions by function."""
    path = library.file()
    assert path is not None
    listing = subprocess.run(
        ["objdump", "-d", "-C", "--no-show-raw-insn", str(path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    functions = re.findall(r"^[0-9a-f]+ <(.*)>:\n((?:.+\n)*)", listing, re.MULTILINE)
    return {name: code for name, code in functions if not name.endswith("@plt")}


@pytest.mark.x86_code
def test_wide_vectors_stay_in_their_paths(machine_code: dict[str, str]) -> None:
    """No other function may use them: an older processor would die of it."""
    assert any("%zmm" in code for code in machine_code.values())
    for name, code in machine_code.items():
        if "avx" not in name:
            assert "%ymm" not in code, name
        if "avx512" not in name:
            assert "%zmm" not in code, name


def innermost_loops(code: str) -> list[list[str]]:
    """The instructions of every loop without a loop inside."""
    lines = re.findall(r"^ *([0-9a-f]+):\t(.*)$", code, re.MULTILINE)
    at = {address: index for index, (address, _) in enumerate(lines)}
    loops = []
    for end, (_, instruction) in enumerate(lines):
        jump = re.match(r"j\w+ +([0-9a-f]+) ", instruction)
        start = at.get(jump[1], end) if jump else end
        if start < end:
            loops.append((start, end))
    return [
        [instruction for _, instruction in lines[start : end + 1]]
        for start, end in loops
        if not any(start <= a and b < end for a, b in loops)
    ]


@pytest.mark.x86_code
@pytest.mark.parametrize(
    ("namespace", "tile", "instruction", "register"),
    [
        ("avx512_vpopcntdq", "count<8, 2>", "vpopcntd", "%zmm"),
        ("avx512_vpopcntdq", "count<7, 2>", "vpopcntd", "%zmm"),
        ("avx512", "count<4, 2>", "vpshufb", "%zmm"),
        ("avx2", "count<4, 2>", "vpshufb", "%ymm"),
    ],
)
def test_the_inner_loop_keeps_its_sums_in_registers(
    machine_code: dict[str, str], namespace: str, tile: str, instruction: str, register: str
) -> None:
    (code,) = (
        code
        for name, code in machine_code.items()
        if name.startswith(f"void {namespace}::Convolution") and f"::{tile}" in name
    )
    of_tile = int(tile[6]) * int(tile[9])
    counting = [
        loop
        for loop in innermost_loops(code)
        if sum(instruction in line and register in line for line in loop) >= of_tile
    ]
    assert counting
    for loop in counting:
        assert not [line for line in loop if re.search(rf"vmov\S+ +{register}\d+,.*\(", line)]


@pytest.mark.x86_code
@pytest.mark.parametrize(
    ("namespace", "register", "vectors"),
    [("avx512_vpopcntdq", "%zmm", 2), ("avx512", "%zmm", 8), ("avx2", "%ymm", 8)],
)
def test_residual_sums_are_vectors(
    machine_code: dict[str, str], namespace: str, register: str, vectors: int
) -> None:
    """Of a whole block, with an activation and without: a branch in either would leave scalars."""
    code = "".join(
        code
        for name, code in machine_code.items()
        if name.startswith(f"void {namespace}::Convolution") and "sums<float>" in name
    )
    means = re.findall(rf"vsubps .*{register}", code)
    assert len(means) >= 2 * vectors


def test_it_exports_its_functions_only() -> None:
    tool = shutil.which("nm")
    if compiler() is None or tool is None:
        assert library.file() is None
        return
    out = subprocess.run(
        [tool, "-D", "--defined-only", str(library.file())],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = {line.split()[-1] for line in out.splitlines()}
    assert names == set(library._SIGNATURES)
