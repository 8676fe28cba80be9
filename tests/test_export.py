"""torch.export, files, and AOTInductor: what leaves the process and comes back the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import binop

pytestmark = pytest.mark.compile
SHAPES = ((3, 8, 9, 11), (1, 8, 6, 5), (7, 8, 14, 4))


def _model() -> nn.Module:
    model = nn.Sequential(
        binop.nn.BinaryConv2d(8, 33, 3, padding=1, input_scale="learned"),
        nn.BatchNorm2d(33),
        binop.nn.BinaryConv2d(33, 6, (2, 3), padding="same", weight_scale="learned", pad_value=-1),
    )
    model[1].running_mean.normal_()
    return model.eval()


def _export(model: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    sizes = {axis: torch.export.Dim(name) for axis, name in ((0, "n"), (2, "h"), (3, "w"))}
    with torch.no_grad():
        return torch.export.export(model, (x,), dynamic_shapes=(sizes,))


@pytest.mark.parametrize("packed", [False, True])
def test_dynamic_batch_height_and_width(packed: bool) -> None:
    model = binop.pack_model(_model()) if packed else _model()
    program = _export(model, torch.randn(SHAPES[0]))
    for shape in SHAPES:
        x = torch.randn(shape)
        assert torch.equal(program.module()(x), model(x))


def test_the_exported_graph_holds_the_op() -> None:
    program = _export(_model(), torch.randn(SHAPES[0]))
    targets = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert targets.count("binop.binary_conv2d.default") == 2


LOAD = """
import sys
import torch
import binop
program = torch.export.load(sys.argv[1]).module()
torch.save([program(x) for x in torch.load(sys.argv[2])], sys.argv[3])
"""


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_in_a_fresh_process(packed: bool, tmp_path: Path) -> None:
    model = binop.pack_model(_model()) if packed else _model()
    inputs = [torch.randn(shape) for shape in SHAPES]
    paths = [tmp_path / name for name in ("model.pt2", "inputs.pt", "outputs.pt")]
    torch.export.save(_export(model, inputs[0]), paths[0])
    torch.save(inputs, paths[1])
    subprocess.run([sys.executable, "-c", LOAD, *map(str, paths)], check=True)
    for got, x in zip(torch.load(paths[2]), inputs, strict=True):
        assert torch.equal(got, model(x))


@pytest.mark.slow
def test_aoti_package(tmp_path: Path) -> None:
    model = binop.pack_model(_model())
    x = torch.randn(SHAPES[0])
    path = str(tmp_path / "model.pt2")
    torch._inductor.aoti_compile_and_package(_export(model, x), package_path=path)
    loaded = torch._inductor.aoti_load_package(path)
    for shape in SHAPES:
        x = torch.randn(shape)
        assert torch.equal(loaded(x), model(x))


def test_training_state_survives_a_checkpoint(tmp_path: Path) -> None:
    model, twin = _model(), _model()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    twin.load_state_dict(torch.load(tmp_path / "model.pt"))
    x = torch.randn(SHAPES[0])
    assert torch.equal(twin(x), model(x))
