"""``explain``: the story of each layer, the estimate of bytes, the picture, the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import binop
from binop import _explain
from binop.inductor import explain

pytestmark = pytest.mark.compile

MODEL = """
import binop
from torch import nn

def build():
    conv = binop.nn.BinaryConv2d
    return nn.Sequential(
        conv(32, 64, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(64),
        conv(64, 32, 3, bias=False), nn.PReLU(32), conv(32, 8, 1, groups=8, bias=False),
    )
"""


def build(tmp_path: Path) -> nn.Module:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return _explain.load(f"{path}:build")().eval()


def test_layers_and_reasons(tmp_path: Path) -> None:
    found = explain(build(tmp_path), torch.randn(4, 32, 8, 8))
    first, second, third = found.layers
    assert (first.name, second.name, third.name) == ("0", "3", "5")
    assert first.input.startswith("packs floats: it is fed by the placeholder")
    assert first.output.startswith("bits (constant: clone, max_pool2d, sub, mul, mul, add")
    assert (second.input, second.output) == ("bits of 0", "floats")
    assert third.output == "floats; left as it is: 4 channels per group do not fill whole words"
    assert "3 binary convolutions, 1 put out bits" in str(found)


def test_live_parameters(tmp_path: Path) -> None:
    found = explain(build(tmp_path), torch.randn(256, 32, 8, 8), freezing=False)
    assert found.layers[0].output.startswith("bits (searched at run time")
    assert found.layers[1].input == "bits of 0"


def test_bytes_are_those_of_the_tensors() -> None:
    """float x -> conv -> relu - 1 -> conv -> float y, in channels_last: by hand."""
    conv = [binop.nn.BinaryConv2d(32, 32, 1, bias=False, weight_scale="none") for _ in range(2)]

    def call(x: torch.Tensor) -> torch.Tensor:
        return conv[1](conv[0](x).relu() - 1)

    x = torch.randn(2, 32, 4, 4).contiguous(memory_format=torch.channels_last)
    found = explain(call, x)
    floats, words, weight = 4 * x.numel(), 4 * 2 * 16, 4 * 32
    scale, threshold, flip = 4, 4 * 32, 32
    # conv, pointwise, conv; pack, conv to bits, conv to floats.
    # Both scales are the same 1.
    assert found.bytes_before == 2 * (2 * floats + 4 * 32 * 32 + scale) + 2 * floats
    after = (floats + words) + (2 * words + weight + threshold + flip)
    after += words + weight + scale + floats
    assert found.bytes_after == after
    assert len(found.before) == len(found.after) == 3


def test_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "graph.png"
    explain(build(tmp_path), torch.randn(1, 32, 8, 8)).draw(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000


def test_the_command(tmp_path: Path) -> None:
    build(tmp_path)
    picture = tmp_path / "graph.svg"
    command = [sys.executable, "-W", "ignore", "-m", "binop", "explain"]
    options = ["--input", "2,32,8,8", "--draw", str(picture), "--all"]
    done = subprocess.run(
        [*command, f"{tmp_path / 'model.py'}:build", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "bits of 0" in done.stdout
    assert "0: pool on bits done: OR over windows of words" in done.stdout
    assert "binary_conv2d_threshold" in picture.read_text()


@pytest.mark.parametrize("text", ["nothing.py:build", "build", "{}:missing"])
def test_what_is_not_a_model(text: str, tmp_path: Path) -> None:
    build(tmp_path)
    with pytest.raises(ValueError, match=r"model: expected"):
        _explain.load(text.format(tmp_path / "model.py"))


def test_input_shapes() -> None:
    with pytest.raises(Exception, match="expected four sizes"):
        _explain._shape("3,224")
    assert _explain._shape("1,3,8,8") == (1, 3, 8, 8)
