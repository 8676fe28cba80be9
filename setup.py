"""The CPU library, as an optional extension: without a C++ compiler binop installs all the same,
and its CPU tensors are served by plain torch. Everything else is in pyproject.toml.

In a checkout, ``python setup.py build_ext --inplace`` builds it where ``import binop`` finds it.
"""

import sys
from glob import glob

from setuptools import Extension, setup

# Where the compiler links its own library statically, that stays hidden, too.
_HIDDEN = ["-Wl,--exclude-libs,ALL"] if sys.platform.startswith("linux") else []

setup(
    ext_modules=[
        Extension(
            "binop._cpu._library",
            sorted(glob("kernels/cpu/*.cpp")),
            depends=sorted(glob("kernels/cpu/*.h")),
            language="c++",
            # No contraction: every operation of the epilogue is rounded by itself.
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-g0",
                "-fopenmp",
                "-ffp-contract=off",
                "-fvisibility=hidden",
                "-Wall",
                "-Wextra",
            ],
            extra_link_args=["-fopenmp", *_HIDDEN],
            optional=True,
        )
    ]
)
