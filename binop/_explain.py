"""``python -m binop explain model.py:build``: what the compiler plugin makes of a model."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Prints, for each binary convolution of a model, where its bits come from, what it puts "
        "out, and why not bits; and the bytes moved through memory before and after."
    )
    parser.add_argument("model", metavar="FILE.py:FUNCTION", help="a function that returns it")
    parser.add_argument(
        "--input",
        default="1,3,224,224",
        metavar="N,C,H,W",
        type=_shape,
        help="shape of the input (default 1,3,224,224)",
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", default="cpu", help="where the model is traced (default cpu)")
    parser.add_argument(
        "--live", action="store_true", help="parameters may change between calls (no freezing)"
    )
    parser.add_argument("--draw", type=Path, metavar="FILE", help="draw the graph, too")
    parser.add_argument("--all", action="store_true", help="print the outcome of every rewrite")


def run(options: argparse.Namespace) -> int:
    import torch

    from binop.inductor import explain

    try:
        build = load(options.model)
    except (ValueError, OSError) as error:
        print(f"explain: {error}", file=sys.stderr)
        return 2
    dtype = getattr(torch, options.dtype)
    model = build().eval().to(options.device, dtype)
    x = torch.zeros(options.input, device=options.device, dtype=dtype)
    explanation = explain(model, x, freezing=not options.live)
    print(explanation)
    if options.all:
        print("", *explanation.outcomes, sep="\n")
    if options.draw is not None:
        explanation.draw(options.draw)
        print(f"wrote {options.draw}", file=sys.stderr)
    return 0


def load(text: str) -> Callable[[], Any]:
    """The function that ``FILE.py:FUNCTION`` names."""
    file, _, name = text.rpartition(":")
    path = Path(file)
    if not file or not path.is_file():
        raise ValueError(f"model: expected FILE.py:FUNCTION with a file that exists, got {text}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"model: expected a Python file, got {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses and pickle look there
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"model: expected a function of {path}, got {name}")
    return function


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) != 4 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"expected four sizes N,C,H,W, got {text}")
    return sizes
