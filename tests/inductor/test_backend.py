"""``torch.compile(backend="binop")`` through Inductor's code generator: options, caches, training,
dynamic shapes, and the same bits as ``backend="inductor"``."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.utils import fresh_cache
from torch.fx import Graph

import binop
from binop.inductor.passes import HOOK, BinopPass, chained

pytestmark = pytest.mark.compile


def small(*, norm: bool = True) -> nn.Sequential:
    """Two binary convolutions with a chain between them."""
    model = nn.Sequential(
        binop.nn.BinaryConv2d(8, 35, 3, padding=1),
        nn.BatchNorm2d(35) if norm else nn.Identity(),
        nn.Hardtanh(),
        binop.nn.BinaryConv2d(35, 6, 3),
    )
    if norm:
        with torch.no_grad():
            model[1].weight.normal_()
            model[1].bias.normal_()
            model[1].running_mean.normal_(0, 5)
            model[1].running_var.uniform_(1, 9)
    return model.eval()


def rewrites() -> Counter[str]:
    return Counter(counters["binop"])


def test_the_entry_point_needs_no_import() -> None:
    code = (
        "import sys, torch\n"
        "assert 'binop' in torch._dynamo.list_backends()\n"
        "assert 'binop' not in sys.modules\n"
        "f = torch.compile(lambda x: torch.relu(x) + 1, backend='binop', fullgraph=True)\n"
        "assert torch.equal(f(torch.tensor([-1.0, 2.0])), torch.tensor([1.0, 3.0]))\n"
        "assert 'binop' in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("channels_last", "dtype"),
    [
        (False, torch.float32),
        (True, torch.float32),
        (True, torch.bfloat16),
        (False, torch.float16),
    ],
)
@pytest.mark.parametrize("freezing", [False, True])
def test_same_bits_as_inductor(
    channels_last: bool, dtype: torch.dtype, freezing: bool, device: str
) -> None:
    """In 16 bits, too, where Inductor keeps intermediates in 32."""
    model = small().to(device, dtype)
    x = torch.randn(16, 8, 12, 12, device=device, dtype=dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), config.patch(freezing=freezing):
        wanted = torch.compile(model, fullgraph=True)(x)
        torch.compiler.reset()
        got = torch.compile(model, backend="binop", fullgraph=True)(x)
    assert torch.equal(got, wanted)
    assert got.stride() == wanted.stride()
    assert rewrites()["packed"] == 2
    assert rewrites()["threshold"] == 1


def test_packed_layers_are_fused_like_trained_ones() -> None:
    model = small()
    packed, x = binop.pack_model(model), torch.randn(16, 8, 12, 12)
    with torch.no_grad(), config.patch(freezing=True):
        wanted = torch.compile(packed, fullgraph=True)(x)
        torch.compiler.reset()
        got = torch.compile(packed, backend="binop", fullgraph=True)(x)
    assert torch.equal(got, wanted)
    assert torch.equal(got, model(x))
    assert rewrites()["threshold"] == 1


def test_mode_and_options_are_inductors() -> None:
    seen: list[Any] = []

    def look(graph: Graph) -> None:
        seen.append((config.max_autotune, config.coordinate_descent_tuning, config.max_fusion_size))

    model, x = small(norm=False), torch.randn(2, 8, 9, 9)
    config_before = config.max_fusion_size
    with torch.no_grad(), config.patch({HOOK: look}):
        torch.compile(model, backend="binop", mode="max-autotune-no-cudagraphs")(x)
        torch.compiler.reset()
        torch.compile(model, backend="binop", options={"max_fusion_size": 7})(x)
    assert seen == [(True, True, config_before), (False, False, 7)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "fastest"}, "Unrecognized mode=fastest"),
        ({"options": {"no_such_option": 1}}, "Unexpected optimization option no_such_option"),
        ({"options": {"max_autotune": "yes"}}, "Unexpected type of attr max_autotune"),
    ],
)
def test_wrong_options_raise_inductors_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        torch.compile(small(), backend="binop", **arguments)(torch.randn(2, 8, 9, 9))


def test_freezing_as_an_option_is_told_to_be_late() -> None:
    model, x = small(), torch.randn(16, 8, 9, 9)
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.compile(model, backend="binop", options={"freezing": True})(x)
    assert any("TORCHINDUCTOR_FREEZING" in str(w.message) for w in caught)


def test_fullgraph_refuses_a_graph_break() -> None:
    def call(x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x + 1

    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(call, backend="binop", fullgraph=True)(torch.ones(2))


class _Counting(CustomGraphPass):
    def __init__(self, name: str = "counting") -> None:
        self.name = name
        self.calls: list[bool] = []

    def __call__(self, graph: Graph) -> None:
        self.calls.append(any("binary_conv2d.default" in str(n.target) for n in graph.nodes))

    def uuid(self) -> str:
        return self.name


def test_a_users_pass_runs_first() -> None:
    model, x = small(norm=False), torch.randn(2, 8, 9, 9)
    configured, optional = _Counting("configured"), _Counting("optional")
    with torch.no_grad(), config.patch({HOOK: configured}):
        torch.compile(model, backend="binop")(x)
        torch.compiler.reset()
        torch.compile(model, backend="binop", options={HOOK: optional})(x)
    assert configured.calls == [True]
    assert optional.calls == [True]
    assert rewrites()["packed"] == 4


def test_chaining() -> None:
    mine = _Counting()
    assert isinstance(chained(None), BinopPass)
    ours = chained(BinopPass())
    assert isinstance(ours, BinopPass)  # once is enough
    both = chained(mine)
    if isinstance(both, tuple):  # torch 2.13
        assert both[0] is mine
        assert isinstance(both[1], BinopPass)
        assert chained(both) is both
    else:
        assert both.uuid() == ("counting", BinopPass().uuid())
    assert BinopPass().uuid() == BinopPass().uuid()


def test_inductor_itself_with_our_pass() -> None:
    model, x = small(norm=False), torch.randn(2, 8, 9, 9)
    with torch.no_grad():
        got = torch.compile(model, options=binop.inductor.config_patches())(x)
        assert torch.equal(got, model(x))
    assert rewrites()["packed"] == 2


def test_cached_code_does_not_keep_another_models_thresholds() -> None:
    """Frozen parameters enter Inductor's cache key by shape alone; thresholds must by value."""
    x = torch.randn(16, 8, 9, 9)
    first, second = small(norm=False), small(norm=False)
    shifts = torch.arange(35.0).reshape(-1, 1, 1)

    def call(model: nn.Sequential, shift: Tensor) -> Callable[[Tensor], Tensor]:
        class Shift(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.shift = nn.Parameter(shift)

            def forward(self, y: Tensor) -> Tensor:
                return y + self.shift

        return nn.Sequential(model[0], Shift(), model[3]).eval()

    caching = config.patch(freezing=True, fx_graph_cache=True)
    with torch.no_grad(), caching, fresh_cache():
        for model, shift in ((first, shifts), (second, shifts - 17), (first, shifts * 0)):
            torch.compiler.reset()
            network = call(model, shift)
            assert torch.equal(torch.compile(network, backend="binop")(x), network(x))
    assert rewrites()["threshold"] == 3
    assert counters["inductor"]["fxgraph_cache_miss"] == 3


def test_unfrozen_parameters_may_change() -> None:
    model, x = small(norm=False), torch.randn(16, 8, 9, 9)
    compiled = torch.compile(model, backend="binop")
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(compiled(x), model(x))
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter))


def test_training_equals_inductor_and_reads_x_once() -> None:
    def gradients(backend: str, model: nn.Module, x: Tensor) -> list[Tensor]:
        torch.compiler.reset()
        y = torch.compile(model, backend=backend, fullgraph=True)(x)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *model.parameters()])]

    model, x = small().train(), torch.randn(4, 8, 9, 9, requires_grad=True)
    wanted = gradients("inductor", model, x)
    got = gradients("binop", model, x)
    assert torch.equal(got[0], wanted[0])
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)
    assert rewrites()["packed"] == 2
    assert rewrites()["threshold"] == 0


@pytest.mark.parametrize("backend", ["binop", "inductor"])
@pytest.mark.parametrize("freezing", [False, True])
def test_one_compilation_for_every_batch(backend: str, freezing: bool) -> None:
    """From 2 on by default. Dynamo makes a batch of 1 a graph of its own unless
    ``backed_size_oblivious`` is set; then one graph serves it, too."""
    model = small(norm=False)
    oblivious = torch.fx.experimental._config.patch(backed_size_oblivious=True)
    with torch.no_grad(), config.patch(freezing=freezing), oblivious:
        compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
        for batch in (64, *range(1, 65)):
            x = torch.randn(batch, 8, 9, 9)
            torch._dynamo.maybe_mark_dynamic(x, 0)
            assert torch.equal(compiled(x), model(x)), batch
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.cuda
# torch's own: it captures an empty graph to set up its memory pool.
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning")
@pytest.mark.parametrize("freezing", [False, True])
def test_recorded_into_cuda_graphs(freezing: bool) -> None:
    model = small(norm=False).cuda()
    compiled = torch.compile(model, backend="binop", mode="reduce-overhead", fullgraph=True)
    with torch.no_grad(), config.patch(freezing=freezing):
        for _ in range(4):  # warm-up, recording, replays
            x = torch.randn(16, 8, 9, 9, device="cuda")
            assert torch.equal(compiled(x).clone(), model(x))
    assert counters["inductor"]["cudagraph_skips"] == 0
    assert rewrites()["threshold"] == 1


@pytest.mark.slow
def test_ahead_of_time(tmp_path: Any) -> None:
    model, x = small(norm=False), torch.randn(16, 8, 9, 9)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        path = torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(tmp_path / "model.pt2"),
            inductor_configs=binop.inductor.config_patches(),
        )
        assert torch.equal(torch._inductor.aoti_load_package(path)(x), model(x))
    assert rewrites()["packed"] == 2
