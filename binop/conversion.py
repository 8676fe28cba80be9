"""Whole models: float to binary, binary to packed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from binop.fold_norms import fold_norms as fold
from binop.nn import BinaryConv2d, PackedBinaryConv2d


@dataclass(frozen=True)
class Change:
    """What became of one layer. ``after`` is None where it was left as it is."""

    name: str
    before: str
    after: str | None
    reason: str

    def __str__(self) -> str:
        outcome = f"-> {self.after}" if self.after else "kept"
        return f"{self.name or '(model)'}: {self.before} {outcome} ({self.reason})"


Report = Callable[[Change], object]
Filter = Callable[[str, nn.Module], bool]


def convert(
    model: nn.Module,
    *,
    filter: Filter | None = None,
    keep_first: bool = True,
    keep_last: bool = True,
    inplace: bool = False,
    report: Report | None = None,
    **options: Any,
) -> nn.Module:
    """Replaces the ``nn.Conv2d`` layers of a model by ``BinaryConv2d``, over the same parameters.

    Args:
        model: any module; subclasses of ``nn.Conv2d`` and parametrized layers are left alone.
        filter: called with (name, layer) for every candidate; False keeps it float.
        keep_first: keep the first convolution float (its input is the image).
        keep_last: keep the last of all convolutions and ``nn.Linear`` float (it makes the output).
            First and last go by the order of registration, as in ``model.named_modules()``.
        inplace: change ``model`` itself; otherwise a deep copy.
        report: called with a :class:`Change` for every ``nn.Conv2d``: ``print``, or a list's
            ``append``.
        options: keyword-only arguments of ``BinaryConv2d`` (``pad_value``, ``clip``, ...).

    Returns:
        The converted model. If ``model`` is itself an ``nn.Conv2d``, it counts as the first and
        the last layer.
    """
    model = model if inplace else copy.deepcopy(model)
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    first = next((m for _, m in layers if isinstance(m, nn.Conv2d)), None)
    last = layers[-1][1] if layers else None

    def reason_to_keep(name: str, layer: nn.Module) -> str | None:
        if type(layer) is not nn.Conv2d:
            return f"not a plain nn.Conv2d but {type(layer).__qualname__}"
        if keep_first and layer is first:
            return "first convolution"
        if keep_last and layer is last:
            return "last layer"
        if filter is not None and not filter(name, layer):
            return "filter"
        return None

    def to_binary(layer: nn.Module) -> nn.Module:
        return BinaryConv2d.from_float(layer, **options)  # type: ignore[arg-type]

    return _replace(model, nn.Conv2d, reason_to_keep, to_binary, report)


def pack_model(
    model: nn.Module,
    *,
    fold_norms: bool = False,
    inplace: bool = False,
    report: Report | None = None,
) -> nn.Module:
    """Replaces every ``BinaryConv2d`` of a model by its ``PackedBinaryConv2d``, for inference.

    Args:
        model: any module. It keeps its training flag: call ``eval()`` before inference.
        fold_norms: let a packed layer do what an ``nn.BatchNorm2d`` in eval mode does that alone
            reads its output: ``layer.norm`` is that BatchNorm, and an ``nn.Identity`` takes its
            place. No bit changes; on the CPU a call of a module and a pass over memory go. Who
            reads what is found by ``torch.fx``: where it cannot trace the model, nothing is folded.
        inplace: change ``model`` itself; otherwise a deep copy.
        report: called with a :class:`Change` for every ``BinaryConv2d``.
    """
    model = model if inplace else copy.deepcopy(model)

    def reason_to_keep(name: str, layer: nn.Module) -> str | None:
        if type(layer) is not BinaryConv2d:
            return f"not a plain BinaryConv2d but {type(layer).__qualname__}"
        return None

    return _replace(
        model,
        BinaryConv2d,
        reason_to_keep,
        PackedBinaryConv2d.from_float,
        report,
        fold if fold_norms else None,
    )


def _replace(
    model: nn.Module,
    kind: type[nn.Module],
    reason_to_keep: Callable[[str, nn.Module], str | None],
    make: Callable[[Any], nn.Module],
    report: Report | None,
    finish: Callable[[nn.Module], dict[nn.Module, str]] | None = None,
) -> nn.Module:
    """``finish`` changes the model once all is replaced, and says what became of new layers."""
    # By identity: a layer that stands in several places becomes one layer in all of them.
    made: dict[nn.Module, nn.Module] = {}
    seen: list[tuple[str, nn.Module, str | None]] = []
    for name, layer in model.named_modules():
        if isinstance(layer, kind):
            kept = reason_to_keep(name, layer)
            seen.append((name, layer, kept))
            if kept is None:
                made[layer] = make(layer)
    for parent in list(model.modules()):
        for child_name, child in parent._modules.items():
            if child in made:
                setattr(parent, child_name, made[child])
    model = made.get(model, model)
    finished = {} if finish is None else finish(model)
    if report is not None:
        for name, layer, reason in seen:
            after = None
            if reason is None:
                after = type(made[layer]).__name__
                reason = ", ".join(filter(None, ("converted", finished.get(made[layer]))))
            report(Change(name, type(layer).__name__, after, reason))
    return model
