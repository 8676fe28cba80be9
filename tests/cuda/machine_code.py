"""Compiles kernels and reads their machine code, each once for all tests of a run."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path

from binop._cuda import jit
from binop._cuda.launches import Kernel

# Of a kernel and an architecture: the instructions, and the compiler's log.
MachineCode = Callable[[Kernel, str], tuple[list[str], str]]


@cache
def _disassembler() -> str:
    packaged = Path(sysconfig.get_path("purelib"), "nvidia", "cu13", "bin", "nvdisasm")
    found = shutil.which("nvdisasm", path=str(packaged.parent)) or shutil.which("nvdisasm")
    assert found, "nvdisasm is missing: pip install nvidia-cuda-nvdisasm"
    return found


def kept_in(folder: Path) -> MachineCode:
    """Results are files there, so that the processes of one run share them."""
    folder.mkdir(exist_ok=True)

    def machine_code(kernel: Kernel, arch: str) -> tuple[list[str], str]:
        path = folder / hashlib.sha256(repr((kernel, arch)).encode()).hexdigest()
        if path.exists():
            return pickle.loads(path.read_bytes())
        cubin, log = jit.compile_with_log(kernel, arch)
        assert cubin.startswith(b"\x7fELF")
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(cubin)
        command = [_disassembler(), "-c", str(temporary)]
        listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        temporary.write_bytes(pickle.dumps((listing.splitlines(), log)))
        temporary.replace(path)
        return listing.splitlines(), log

    return machine_code


def read_early(code: list[str]) -> list[str]:
    """Instructions, in the order in which they stand, that name a register of a warpgroup-wide
    product's sums between the product and the wait for it: what they find there is incomplete."""
    found: list[str] = []
    groups: list[set[int]] = [set()]  # registers of the products under way; the last is open
    for line in code:
        product = re.search(r"[BH]GMMA\.64x(\d+)x\S+ R(\d+),", line)
        wait = re.search(r"WARPGROUP\.DEPBAR\.LE gsb0, (0x[0-9a-f]+)", line)
        if product:
            columns, first = int(product[1]), int(product[2])
            groups[-1] |= set(range(first, first + columns // 2))
            if "gsb0" in line:
                groups.append(set())
        elif wait:
            groups = groups[-1 - int(wait[1], 16) :]
        elif {int(register) for register in re.findall(r"\bR(\d+)\b", line)} & set().union(*groups):
            found.append(line.strip())
    return found
