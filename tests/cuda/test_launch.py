"""Where launches go and from where: graphs, streams, threads, processes, and very large tensors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
import torch
from cases import Case
from compare import assert_same_bits
from configurations import words
from torch._dynamo.utils import counters

import binop
from binop import _first_call
from binop._cuda import jit

pytestmark = pytest.mark.cuda

_LAYER = Case("layer", 64, 48, h=14, w=15, n=3, dtype=torch.bfloat16, channels_last=True)


def _layer(seed: int = 0) -> list[torch.Tensor]:
    return [tensor.cuda() for tensor in _LAYER.tensors(seed)]


def _reference(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.ops.binop.binary_conv2d(*(tensor.cpu() for tensor in tensors), padding=(1, 1))


def test_a_first_call_may_be_captured(ops: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes that nothing has run with, and kernels that nothing has loaded."""
    tensors = _layer()
    tensors[0] = tensors[0][..., :11]
    ops._prepared.clear()
    monkeypatch.setattr(jit, "_loaded", {})
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ops.binary_conv2d(*tensors, padding=(1, 1))
    for seed in (1, 2):
        for tensor, fresh in zip(tensors, _layer(seed), strict=True):
            tensor.copy_(fresh[..., :11] if fresh.ndim == 4 and tensor is tensors[0] else fresh)
        graph.replay()
        assert_same_bits(out, _reference(tensors))


def test_the_direct_path_and_the_dispatched_one_agree() -> None:
    """Without gradients a call goes straight to the kernel; with them, through autograd."""
    tensors = _layer()
    plain = torch.ops.binop.binary_conv2d(*tensors, padding=(1, 1))
    assert not plain.requires_grad
    with torch.inference_mode():
        assert_same_bits(torch.ops.binop.binary_conv2d(*tensors, padding=(1, 1)), plain)
    for index in range(4):
        leaves = [t.clone().requires_grad_(i == index) for i, t in enumerate(tensors)]
        out = torch.ops.binop.binary_conv2d(*leaves, padding=(1, 1))
        assert_same_bits(out, plain)
        out.float().sum().backward()
        assert leaves[index].grad is not None
        with torch.no_grad():
            assert not torch.ops.binop.binary_conv2d(*leaves, padding=(1, 1)).requires_grad


def test_graph_replays_with_new_values(ops: ModuleType) -> None:
    tensors = _layer()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        ops.binary_conv2d(*tensors, padding=(1, 1))
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ops.binary_conv2d(*tensors, padding=(1, 1))
    for seed in (1, 2):
        for tensor, fresh in zip(tensors, _layer(seed), strict=True):
            tensor.copy_(fresh)
        graph.replay()
        assert_same_bits(out, _reference(tensors))


@pytest.mark.compile
# torch's own: it captures an empty graph to set up its memory pool.
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning")
@pytest.mark.parametrize("packed", [False, True])
def test_compiled_into_cuda_graphs(packed: bool) -> None:
    torch.compiler.reset()
    counters.clear()
    layers = [binop.nn.BinaryConv2d(64, 64, 3, padding=1) for _ in range(2)]
    model = torch.nn.Sequential(*layers).cuda().eval()
    if packed:
        model = binop.pack_model(model)
    compiled = torch.compile(model, mode="reduce-overhead", fullgraph=True)
    with torch.no_grad():
        for _ in range(4):  # warm-up, recording, replays
            x = torch.randn(2, 64, 9, 8, device="cuda")
            assert_same_bits(compiled(x).clone(), model(x))
    assert counters["inductor"]["cudagraph_skips"] == 0


def test_a_side_stream_orders_the_launches(ops: ModuleType) -> None:
    tensors = _layer()
    ops.binary_conv2d(*tensors, padding=(1, 1))
    delayed = torch.zeros_like(tensors[0])
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # a launch on another stream would overtake the copy
        delayed.copy_(tensors[0])
        out = ops.binary_conv2d(delayed, *tensors[1:], padding=(1, 1))
    stream.synchronize()
    assert_same_bits(out, _reference(tensors))


def test_threads_with_their_own_streams(ops: ModuleType) -> None:
    def work(seed: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for repeat in range(20):
                tensors = _layer(seed + repeat % 2)
                tensors[0] = tensors[0][..., : 7 + seed]  # a shape of its own
                out = ops.binary_conv2d(*tensors, padding=(1, 1))
                assert_same_bits(out, _reference(tensors))

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, seed) for seed in range(8)]:
            done.result()


def test_processes_share_a_cold_cache(tmp_path: Path) -> None:
    cold = [_first_call.finish(each) for each in [_first_call.start(tmp_path) for _ in range(3)]]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names
    assert all(name.endswith(".cubin") for name in names)
    warm = _first_call.in_a_process(tmp_path)
    print(f"cold {cold}, cached {warm}")
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert max(seconds["first_call"] for seconds in cold) < 5
    assert warm["first_call"] < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pack_beyond_2_31_elements(ops: ModuleType, memory_format: torch.memory_format) -> None:
    x = torch.empty(
        33, 64, 1024, 1024, dtype=torch.bfloat16, device="cuda", memory_format=memory_format
    ).uniform_(-1, 1)
    assert x.numel() > 2**31
    packed = ops.pack(x)
    for image in (0, 31, 32):
        assert_same_bits(packed[image], ops.pack(x[image : image + 1].clone())[0])
    few = x[-1:, :, -2:]
    assert_same_bits(packed[-1:, -2:], torch.ops.binop.pack(few.cpu()))
    odd = x[:, :63]  # any strides
    assert_same_bits(ops.pack(odd)[-1:, -2:], torch.ops.binop.pack(few[:, :63].cpu()))


@pytest.mark.slow
def test_unpack_beyond_2_32_elements(ops: ModuleType) -> None:
    packed = torch.randint(-(2**31), 2**31, (65, 1024, 1024, 2), device="cuda").to(torch.int32)
    for channels in (64, 63):
        signs = ops.unpack(packed, channels, torch.int8)
        wanted = torch.ops.binop.unpack(packed[-1:, -2:].cpu(), channels, torch.int8)
        assert_same_bits(signs[-1:, :, -2:], wanted)
        del signs


@pytest.mark.slow
@pytest.mark.parametrize("out_channels", [72, 6])  # tensor cores, popcount
def test_conv_beyond_2_31_elements(ops: ModuleType, out_channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = 2**31 // (out_channels * 1024 * 1024) + 1
    packed = torch.randint(-(2**31), 2**31, (images, 1024, 1024, 1), device="cuda")
    packed = packed.to(torch.int32)
    weight = words(32, out_channels, 3, 3, generator=generator).cuda()
    scale = torch.ones(1, device="cuda")
    options = [(1, 1), (1, 1), (1, 1), 1, 0, torch.float16]
    out = ops.binary_conv2d_packed(packed, weight, 32, scale, None, *options)
    assert out.numel() > 2**31
    wanted = torch.ops.binop.binary_conv2d_packed(
        packed[-1:, -4:].cpu(), weight.cpu(), 32, scale.cpu(), None, *options
    )
    assert_same_bits(out[-1:, :, -3:], wanted[:, :, -3:])
    del out
    x = ops.unpack(packed, 32, torch.float16).contiguous()
    filters = ops.unpack(weight, 32, torch.float16)
    out = ops.binary_conv2d(x, filters, scale, scale, padding=(1, 1))
    assert out.is_contiguous()
    assert_same_bits(out[-1:, :, -3:], wanted[:, :, -3:])
