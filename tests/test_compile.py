"""torch.compile: one graph, the same bits, dynamic shapes, and what the graphs look like."""

from __future__ import annotations

import expecttest
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch._functorch.aot_autograd import make_boxed_func

import binop
from binop.functional import binary_conv2d

pytestmark = pytest.mark.compile


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


def _tensors(*, channels_last: bool = False) -> list[Tensor]:
    x = torch.randn(2, 33, 9, 8)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    tensors = [x, torch.randn(6, 33, 3, 3), torch.tensor(0.7), torch.rand(6)]
    return [t.requires_grad_() for t in tensors]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("pad_value", [-1, 0])
def test_forward_and_backward_equal_eager(channels_last: bool, pad_value: int) -> None:
    def call(x: Tensor, weight: Tensor, scale_a: Tensor, scale_w: Tensor) -> Tensor:
        options = {"stride": 2, "padding": 1, "pad_value": pad_value}
        return binary_conv2d(x, weight, scale_a, scale_w, **options)

    tensors = _tensors(channels_last=channels_last)
    eager = call(*tensors)
    compiled = torch.compile(call, fullgraph=True)(*tensors)
    assert torch.equal(compiled, eager)
    assert compiled.stride() == eager.stride()
    g = torch.randn_like(eager)
    for got, wanted in zip(
        torch.autograd.grad(compiled, tensors, g),
        torch.autograd.grad(eager, tensors, g),
        strict=True,
    ):
        # Sums of gradients may be ordered differently.
        torch.testing.assert_close(got, wanted)


def test_layers_equal_eager() -> None:
    layer = binop.nn.BinaryConv2d(33, 6, (3, 2), padding="same", input_scale="learned").eval()
    packed = binop.nn.PackedBinaryConv2d.from_float(layer)
    x = torch.randn(2, 33, 9, 8)
    wanted = layer(x)
    for module in (layer, packed):
        assert torch.equal(torch.compile(module, fullgraph=True)(x), wanted)


def test_training_in_a_network() -> None:
    def steps(step: object, model: nn.Module, x: Tensor) -> list[float]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        for _ in range(3):
            loss = step(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    def network() -> nn.Module:
        torch.manual_seed(0)
        conv = binop.nn.BinaryConv2d(8, 8, 3, padding=1, weight_scale="learned")
        return nn.Sequential(conv, nn.BatchNorm2d(8), nn.PReLU(), nn.Conv2d(8, 2, 1))

    x = torch.randn(4, 8, 6, 6)
    eager, twin = network(), network()
    compiled = torch.compile(twin, fullgraph=True)
    torch.testing.assert_close(steps(compiled, twin, x), steps(eager, eager, x))


def _unique_graphs() -> int:
    return counters["stats"]["unique_graphs"]


def test_one_graph_for_many_batches_in_training() -> None:
    """Only the batch varies: Inductor's own convolution backward specializes on the image."""
    layer = binop.nn.BinaryConv2d(33, 6, 3, padding=1)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    counters.clear()
    for batch in (2, 3, 5):
        x = torch.randn(batch, 33, 9, 8, requires_grad=True)
        y = compiled(x)
        y.sum().backward()
        assert torch.equal(y, layer(x))
    assert _unique_graphs() == 1


@pytest.mark.parametrize("packed", [False, True])
def test_one_graph_for_many_images_in_inference(packed: bool) -> None:
    layer: nn.Module = binop.nn.BinaryConv2d(33, 6, 3, padding=1, stride=2)
    if packed:
        layer = binop.pack_model(layer)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    counters.clear()
    with torch.no_grad():
        for batch, height, width in ((2, 9, 8), (3, 12, 7), (17, 4, 31)):
            x = torch.randn(batch, 33, height, width)
            assert torch.equal(compiled(x), layer(x))
    assert _unique_graphs() == 1


def test_under_autocast() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), binop.nn.BinaryConv2d(8, 8, 3, bias=False))
    x = torch.randn(1, 3, 9, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        eager = model(x)
        compiled = torch.compile(model, fullgraph=True)(x)
    assert eager.dtype is torch.bfloat16
    assert torch.equal(eager, compiled)


class _Graphs:
    """The forward and backward graphs that AOTAutograd hands to a compiler."""

    def __init__(self) -> None:
        self.forward = self.backward = ""

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        def keep(name: str) -> object:
            def compiler(module: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
                setattr(self, name, _plain(module))
                return make_boxed_func(module.forward)

            return compiler

        backend = aot_autograd(fw_compiler=keep("forward"), bw_compiler=keep("backward"))
        return backend(graph, inputs)


def _plain(module: torch.fx.GraphModule) -> str:
    """One line a node: ``name = target(arguments)``."""
    lines = []
    for node in module.graph.nodes:
        if node.op == "call_function":
            arguments = ", ".join(str(a) for a in (*node.args, *node.kwargs.items()))
            lines.append(f"{node.name} = {node.target}({arguments})")
        elif node.op == "output":
            lines.append(f"return {node.args[0]}")
    return "\n".join(lines)


class TestGraphs(expecttest.TestCase):
    def _graphs(self, *needs_grad: bool) -> _Graphs:
        tensors = [
            t.detach().requires_grad_(need) for t, need in zip(_tensors(), needs_grad, strict=True)
        ]
        graphs = _Graphs()
        call = torch.compile(
            lambda *t: binary_conv2d(*t, padding=1), fullgraph=True, backend=graphs
        )
        call(*tensors).sum().backward()
        return graphs

    def test_training_graphs(self) -> None:
        graphs = self._graphs(True, True, True, True)
        self.assertExpectedInline(
            graphs.forward,
            """\
binary_conv2d = binop.binary_conv2d.default(primals_4, primals_1, primals_2, primals_3, [1, 1], [1, 1])
pack_with_mask = binop.pack_with_mask.default(primals_4, primals_2, 1.0)
getitem = <built-in function getitem>(pack_with_mask, 0)
getitem_1 = <built-in function getitem>(pack_with_mask, 1)
return (binary_conv2d, primals_1, primals_2, primals_3, getitem, getitem_1)""",
        )
        self.assertExpectedInline(
            graphs.backward,
            """\
pack = binop.pack.default(primals_1)
unpack = binop.unpack.default(pack, 33, torch.float32)
view = aten.view.default(primals_3, [-1, 1, 1, 1])
mul = aten.mul.Tensor(view, unpack)
clone = aten.clone.default(mul, ('memory_format', torch.contiguous_format))
new_empty = aten.new_empty.default(tangents_1, [1], ('pin_memory', False))
expand = aten.expand.default(new_empty, [2, 33, 9, 8])
convolution_backward = aten.convolution_backward.default(tangents_1, expand, clone, None, [1, 1], [1, 1], [1, 1], False, [0], 1, [True, False, False])
getitem_2 = <built-in function getitem>(convolution_backward, 0)
unpack_1 = binop.unpack.default(getitem_1, 33, torch.int8)
lt = aten.lt.Scalar(unpack_1, 0)
masked_fill = aten.masked_fill.Scalar(getitem_2, lt, 0)
unpack_2 = binop.unpack.default(getitem, 33, torch.float32)
clone_1 = aten.clone.default(unpack_2, ('memory_format', torch.contiguous_format))
new_empty_1 = aten.new_empty.default(tangents_1, [1], ('pin_memory', False))
expand_1 = aten.expand.default(new_empty_1, [6, 33, 3, 3])
convolution_backward_1 = aten.convolution_backward.default(tangents_1, clone_1, expand_1, None, [1, 1], [1, 1], [1, 1], False, [0], 1, [False, True, False])
getitem_6 = <built-in function getitem>(convolution_backward_1, 1)
mul_1 = aten.mul.Tensor(primals_2, getitem_6)
mul_2 = aten.mul.Tensor(unpack, getitem_6)
sum_1 = aten.sum.dim_IntList(mul_2, [1, 2, 3])
mul_3 = aten.mul.Tensor(primals_3, sum_1)
sum_2 = aten.sum.default(mul_3)
view_1 = aten.view.default(sum_2, [])
mul_4 = aten.mul.Tensor(primals_2, sum_1)
view_2 = aten.view.default(mul_4, [6])
return (mul_1, view_1, view_2, masked_fill)""",
        )

    def test_a_frozen_weight_saves_only_the_mask(self) -> None:
        graphs = self._graphs(True, False, False, False)
        self.assertExpectedInline(
            graphs.forward,
            """\
binary_conv2d = binop.binary_conv2d.default(primals_4, primals_1, primals_2, primals_3, [1, 1], [1, 1])
pack_with_mask = binop.pack_with_mask.default(primals_4, primals_2, 1.0)
getitem_1 = <built-in function getitem>(pack_with_mask, 1)
return (binary_conv2d, primals_1, primals_3, getitem_1)""",
        )
        self.assertExpectedInline(
            graphs.backward,
            """\
pack = binop.pack.default(primals_1)
unpack = binop.unpack.default(pack, 33, torch.float32)
view = aten.view.default(primals_3, [-1, 1, 1, 1])
mul = aten.mul.Tensor(view, unpack)
clone = aten.clone.default(mul, ('memory_format', torch.contiguous_format))
new_empty = aten.new_empty.default(tangents_1, [1], ('pin_memory', False))
expand = aten.expand.default(new_empty, [2, 33, 9, 8])
convolution_backward = aten.convolution_backward.default(tangents_1, expand, clone, None, [1, 1], [1, 1], [1, 1], False, [0], 1, [True, False, False])
getitem_2 = <built-in function getitem>(convolution_backward, 0)
unpack_1 = binop.unpack.default(getitem_1, 33, torch.int8)
lt = aten.lt.Scalar(unpack_1, 0)
masked_fill = aten.masked_fill.Scalar(getitem_2, lt, 0)
return (None, None, None, masked_fill)""",
        )
