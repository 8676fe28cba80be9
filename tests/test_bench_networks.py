"""The benchmark of whole networks: its peers, its check of decisions, and its tables."""

from __future__ import annotations

import dataclasses
from types import ModuleType

import pytest
import torch
from bench_runs import made_up_result, run_group, tiny_plan

from binop import residual, stem
from binop.bench import gate, networks, tables
from binop.bench.cases import NetworkCase, select
from binop.bench.parts import part_of
from binop.bench.result import Group, Row, from_json, to_json
from binop.bench.verdict import judge
from binop.inductor import fuse_pack, fuse_residual, fuse_stem

TINY_NETWORK = NetworkCase(
    "tiny-net", "vgg_bnn", 4, 8, {"width": 32, "resolution": 8, "stages": 1, "dense": 32}
)


def tiny_operands() -> networks.NetworkOperands:
    return networks.NetworkOperands(TINY_NETWORK, torch.device("cpu"), torch.float32, 0)


def test_network_cases_exist_in_the_checkout():
    for device in ("cpu", "cuda"):
        for case in select(device, None, quick=False, networks=True):
            assert isinstance(case, NetworkCase)
            assert (networks.MODELS / f"{case.model}.py").is_file()
            assert case.peer is None or (networks.MODELS / f"{case.peer}.py").is_file()
        assert len(select(device, None, quick=True, networks=True)) == 1
    with pytest.raises(ValueError, match="expected a checkout"):
        networks.load("no_such_model", {})


def test_twins_of_a_network_compute_what_they_say():
    operands = tiny_operands()
    x, binary, simulated = operands.x, operands.binary, operands.simulated()
    torch.testing.assert_close(simulated(x), binary(x))
    twin = operands.float_peer()
    convolutions = [m for m in twin.modules() if isinstance(m, torch.nn.Conv2d)]
    assert {type(m) for m in convolutions} == {torch.nn.Conv2d}
    assert len(convolutions) == 4
    assert torch.equal(convolutions[1].weight, binary[3].conv.weight)


def test_the_float_peer_of_a_network_may_be_another():
    case = dataclasses.replace(TINY_NETWORK, peer="resnet", peer_options={"width": 8})
    case = dataclasses.replace(case, size=32, options={**case.options, "resolution": 32})
    operands = networks.NetworkOperands(case, torch.device("cpu"), torch.float32, 0)
    assert operands.float_peer()(operands.x).shape == (4, 1000)


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore::UserWarning")  # Inductor's own, when it tunes
def test_a_network_is_measured_and_checked(monkeypatch: pytest.MonkeyPatch):
    names = ["inductor", "binop-pack-op", "binop-pack-inline", networks.WITH_RESIDUAL]
    plan = dataclasses.replace(tiny_plan(TINY_NETWORK), names=names)
    group = run_group(monkeypatch, plan)
    assert [row.contender for row in group.rows] == names
    assert all(row.error is None and row.median_us > 0 for row in group.rows)
    assert group.kind == "network"


@pytest.mark.parametrize(
    ("kernel", "part"),
    [
        ("conv_wgmma", "binary"),
        ("pack", "pack"),
        ("triton_poi_fused_add_3", "pointwise"),
        ("Memcpy DtoD", "copies"),
        ("sm90_xmma_fprop_implicit_gemm_bf16", "float"),
        ("cutlass_80_tensorop_bf16_s16816gemm", "float"),
    ],
)
def test_parts_of_a_network(kernel: str, part: str):
    assert part_of(kernel).startswith(part)


def test_contenders_choose_the_rewrites(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fuse_pack, "DEVICES", {"cuda"})
    modules = (fuse_pack, fuse_residual, fuse_stem)
    own = [module.DEVICES for module in modules]
    with networks.Rewrites().chosen():
        assert own == [module.DEVICES for module in modules]
    with networks.Rewrites(frozenset(), frozenset(), frozenset()).chosen():
        assert all(set() == module.DEVICES for module in modules)
    assert own == [module.DEVICES for module in modules]
    names = [recipe.name for recipe in networks.RECIPES["cuda"]]
    of_cuda = [networks.WITHOUT_STEM, networks.AS_IT_IS]
    shared = [recipe.name for recipe in networks.RECIPES["cpu"]]
    assert shared.pop() == networks.WITH_RESIDUAL
    assert names == [*shared, *of_cuda]
    assert [recipe.ours for recipe in networks.RECIPES["cuda"]] == [False] * 3 + [True] * 4


@pytest.mark.parametrize("op", [residual, stem])
def test_kernels_of_their_own_are_compared_with_other_ops(op: ModuleType):
    operands = tiny_operands()
    assert not operands.has_stem
    composed = torch.randn(4, 10)

    def function(x: torch.Tensor) -> torch.Tensor:
        return composed + 1 if op._use_kernel else composed

    networks.check_kernels(operands, function, "ours", composed.clone())
    with pytest.raises(gate.WrongResultError, match="tiny-net: ours: not the logits"):
        networks.check_kernels(operands, function, "ours", function(operands.x))
    assert op._use_kernel


def test_sums_of_the_first_convolution_are_exact():
    """So that no order of summing shows."""
    operands = tiny_operands()
    filters = operands.binary[0].weight
    sums = torch.nn.functional.conv2d(operands.x, filters)
    exact = torch.nn.functional.conv2d(operands.x.double(), filters.double())
    assert torch.equal(sums.double(), exact)
    half = torch.bfloat16
    assert torch.equal(operands.x.to(half).float(), operands.x)
    assert torch.equal(filters.to(half).float(), filters)


def test_wrong_decisions_of_a_network_end_the_run(monkeypatch: pytest.MonkeyPatch):
    operands = tiny_operands()
    wanted = torch.eye(4, 10)
    monkeypatch.setattr(operands, "_reference", wanted)
    networks.check(operands, "ours", wanted * 2)
    with pytest.raises(gate.WrongResultError, match=r"tiny-net: ours: decides as .* on 75\.0%"):
        networks.check(operands, "ours", torch.cat([wanted[:3], wanted[:1]]))


def test_network_tables():
    kernels = [{"kernel": f"kernel{i}", "launches": 2, "us": 90.0 - i} for i in range(10)]
    rows = [Row("float-compiled", False, median_us=200.0, low_us=199.0, high_us=201.0)]
    rows.append(
        Row("binop-pack-op", True, median_us=50.0, low_us=49.0, high_us=51.0, kernels=kernels)
    )
    group = Group("vgg", "network", "256,3,224x224", None, None, rows)
    result = made_up_result()
    group = judge(group, result.ceilings, ("float-compiled",))
    result = dataclasses.replace(result, groups=[group])
    table = tables.TABLES["networks"](result)
    assert table.columns == ["case", "N,C,HxW", "threads", "float-compiled", "binop-pack-op"]
    assert table.rows == [["vgg", "256,3,224x224", "-", "200", "50.0 (4.00x)"]]
    by_kernel = tables.TABLES["kernels"](result)
    assert len(by_kernel.rows) == 8
    assert by_kernel.rows[0] == ["vgg", "binop-pack-op", "kernel0", "2", "90.0", "11%"]
    by_part = tables.TABLES["parts"](result)
    assert [(row[2], row[3]) for row in by_part.rows] == [
        ("float convolutions and matrix products (stem, downsampling, head)", "20")
    ]
    assert from_json(to_json(result)) == result
