"""Train a binary network on real digits, pack it, compile it, export it, and run it elsewhere.

    python examples/digits.py [--epochs 30] [--output build/digits]

Data: the 1,797 images (8x8, 16 grey levels) of the UCI digits that scikit-learn ships; a fifth,
stratified, is held out. The network keeps its first and last layer in float.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

import binop
from binop.nn import BinaryConv2d, PackedBinaryConv2d

CHANNELS = 64
TARGET_ACCURACY = 0.99


class ResidualBlock(nn.Module):
    """Binary 3x3 convolution, BatchNorm, and a real-valued shortcut (as in Bi-Real Net)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = BinaryConv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False, clip=1.5)
        self.norm = nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x))


def build_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, CHANNELS, 3, padding=1, bias=False),
        nn.BatchNorm2d(CHANNELS),
        ResidualBlock(),
        ResidualBlock(),
        nn.MaxPool2d(2),
        ResidualBlock(),
        ResidualBlock(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(CHANNELS, 10),
    )


class SimulatedBinaryConv2d(BinaryConv2d):
    """What one writes without binop: the signs as floats, through ``F.conv2d``."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.where(x >= 0, 1.0, -1.0)
        weight = torch.where(self.weight >= 0, 1.0, -1.0)
        alpha = self.weight.abs().mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, alpha * weight, self.bias, self.stride, self.padding)


def simulated(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for module in model.modules():
        if type(module) is BinaryConv2d:
            module.__class__ = SimulatedBinaryConv2d
    return model


def load_data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images ``[N, 1, 8, 8]`` in [-1, 1] and labels: for training, and held out."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    labels = torch.tensor(digits.target)
    train, test = train_test_split(
        range(len(labels)), test_size=0.2, random_state=0, stratify=labels
    )
    return images[train], labels[train], images[test], labels[test]


def shifted(images: Tensor) -> Tensor:
    """Every image moved by up to one pixel in each direction (background comes in)."""
    padded = F.pad(images, (1, 1, 1, 1), value=-1.0)
    rows, columns = torch.randint(0, 3, (2, len(images), 1, 1))
    grid = torch.arange(8)
    index = torch.arange(len(images)).reshape(-1, 1, 1)
    return padded[index, 0, rows + grid.reshape(1, -1, 1), columns + grid].unsqueeze(1)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()


def train(
    model: nn.Module, data: tuple[Tensor, Tensor, Tensor, Tensor], epochs: int
) -> list[tuple[float, float]]:
    """Returns (mean loss, held-out accuracy) of every epoch."""
    images, labels, test_images, test_labels = data
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    batches = -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    history = []
    with Progress() as progress:
        task = progress.add_task("training", total=epochs * batches)
        for epoch in range(epochs):
            model.train()
            losses = []
            for batch in torch.randperm(len(images)).split(64):
                loss = F.cross_entropy(model(shifted(images[batch])), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
                progress.advance(task)
            history.append((statistics.mean(losses), accuracy(model, test_images, test_labels)))
            loss_text, accuracy_text = f"loss {history[-1][0]:.3f}", f"{history[-1][1]:.2%}"
            progress.update(
                task, description=f"epoch {epoch + 1}/{epochs}: {loss_text}, {accuracy_text}"
            )
    return history


def compile_frozen(model: nn.Module) -> nn.Module:
    """For a model that nobody changes any more, called with batches of few sizes."""
    # Makes the weights constants, so that thresholds are found while it compiles.
    torch._inductor.config.freezing = True
    options = {
        # Whether a module has changed since is not asked in every call.
        "guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe,
        # A call of oneDNN's convolution takes longer than the first layer's work on one image.
        "cpp.weight_prepack": False,
    }
    # One graph for each batch size: with symbolic sizes, Inductor's kernels would call in all
    # threads, for one image too.
    return torch.compile(model, backend="binop", fullgraph=True, dynamic=False, options=options)


RELOAD = """
import sys
import torch
import binop
program = torch.export.load(sys.argv[1]).module()
with torch.no_grad():
    torch.save(program(torch.load(sys.argv[2])), sys.argv[3])
"""


def logits_of_new_process(program: Path, images: Tensor, scratch: Path) -> Tensor:
    """The logits that a fresh Python computes from the exported file."""
    torch.save(images, scratch / "images.pt")
    paths = [program, scratch / "images.pt", scratch / "logits.pt"]
    subprocess.run([sys.executable, "-c", RELOAD, *map(str, paths)], check=True)
    return torch.load(paths[2])


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the weights of the binary layers, scales included."""
    return sum(
        tensor.numel() * tensor.element_size()
        for module in model.modules()
        if isinstance(module, BinaryConv2d | PackedBinaryConv2d)
        for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    )


def median_ms(
    networks: dict[str, nn.Module], batch: Tensor, repeats: int = 100
) -> dict[str, float]:
    """Of one call. The networks take turns, so that what else the machine does hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for network in networks.values():
            network(batch)  # Warm up; compiles.
        for _ in range(repeats):
            for name, network in networks.items():
                start = time.perf_counter()
                network(batch)
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(of_one) for name, of_one in times.items()}


def save_picture(
    path: Path, history: list[tuple[float, float]], images: Tensor, labels: Tensor, logits: Tensor
) -> None:
    """Training curve, and a grid of held-out digits with predictions (mistakes first, in red)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    predictions = logits.argmax(1)
    order = torch.argsort((predictions == labels).int(), stable=True)[:40]
    figure = pyplot.figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subfigures(1, 2)
    axes = left.subplots()
    axes.plot([loss for loss, _ in history], color="tab:blue")
    axes.set(xlabel="epoch", ylabel="training loss", yscale="log")
    twin = axes.twinx()
    twin.plot([100 * value for _, value in history], color="tab:orange")
    twin.set(ylabel="held-out accuracy (%)", ylim=(80, 100.5))
    axes.set_title("loss (blue), accuracy (orange)")
    for axis, index in zip(right.subplots(5, 8).flat, order.tolist(), strict=True):
        wrong = predictions[index] != labels[index]
        axis.imshow(images[index, 0], cmap="gray_r")
        axis.set_title(int(predictions[index]), color="red" if wrong else "black", fontsize=10)
        axis.axis("off")
    right.suptitle("predictions of the reloaded file on held-out digits")
    figure.savefig(path, dpi=100)


def latency_table(
    networks: dict[str, nn.Module],
    times: list[dict[str, float]],
    images: Tensor,
    labels: Tensor,
) -> Table:
    title = f"{len(labels)} held-out digits, {torch.get_num_threads()} threads"
    table = Table("network", title=title)
    for column in ("accuracy", "binary weights", "batch 1", f"batch {len(labels)}"):
        table.add_column(column, justify="right")
    for name, network in networks.items():
        cells = [f"{accuracy(network, images, labels):.2%}", f"{weight_bytes(network):,} B"]
        cells += [f"{at_size[name]:.2f} ms" for at_size in times]
        table.add_row(name, *cells)
    return table


def speed_ups(times: list[dict[str, float]]) -> Iterator[str]:
    """How many times as fast as the first network the others are, at each batch size."""
    first, *others = times[0]
    for name in others:
        one, many = (at_size[first] / at_size[name] for at_size in times)
        yield f"{name}: {one:.1f}x (batch 1) and {many:.1f}x (all) of {first}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Binary network on scikit-learn's digits")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("build/digits"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    console = Console()

    torch.manual_seed(options.seed)
    data = load_data()
    images, labels = data[2:]
    model = build_network()
    history = train(model, data, options.epochs)

    # All networks run in channels_last, which is faster for the float-simulated one, too.
    model.eval().to(memory_format=torch.channels_last)
    packed = binop.pack_model(model, fold_norms=True, report=print)
    compiled = compile_frozen(packed)
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(packed, (images,), dynamic_shapes=({0: batch},))
    program_path = options.output / "digits.pt2"
    torch.export.save(program, program_path)

    with torch.no_grad():
        eager = packed(images)
        predictions = compiled(images).argmax(1)
    reloaded = logits_of_new_process(program_path, images, options.output)
    picture = options.output / "digits.png"
    save_picture(picture, history, images, labels, reloaded)

    networks = {
        "float-simulated, eager": simulated(model),
        "binop packed, eager": packed,
        "binop packed, compiled": compiled,
    }
    times = [median_ms(networks, batch) for batch in (images[:1], images)]
    console.print(latency_table(networks, times, images, labels))
    for line in speed_ups(times):
        console.print(line)
    final = accuracy(packed, images, labels)
    claims = {
        f"held-out accuracy {final:.2%} is at least {TARGET_ACCURACY:.0%}": final
        >= TARGET_ACCURACY,
        f"logits of the reloaded {program_path} equal eager's to the bit": torch.equal(
            reloaded, eager
        ),
        "predictions of the compiled model are identical": torch.equal(
            predictions, eager.argmax(1)
        ),
    }
    for claim, holds in claims.items():
        console.print(f"[{'green' if holds else 'red'}]{'yes' if holds else 'NO '}[/] {claim}")
    console.print(f"picture: {picture}")
    if not all(claims.values()):
        sys.exit("the demo did not show what it should")


if __name__ == "__main__":
    main()
