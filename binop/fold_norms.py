"""Finds the BatchNorm behind each packed convolution, and moves it into the layer."""

from __future__ import annotations

from collections import Counter

from torch import fx, nn

from binop.nn import PackedBinaryConv2d


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, PackedBinaryConv2d) or super().is_leaf_module(m, module_qualified_name)


def fold_norms(model: nn.Module) -> dict[nn.Module, str]:
    """Changes ``model``; what became of each ``PackedBinaryConv2d``."""
    layers: list[nn.Module] = [m for m in model.modules() if isinstance(m, PackedBinaryConv2d)]
    if "forward" in model.__dict__:  # fx would trace the class's.
        return dict.fromkeys(layers, "norm not folded: the model has a forward of its own")
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # Whatever the model's own code raises when it meets a proxy.
        reason = f"norm not folded: tracing the model failed: {error}"
        return dict.fromkeys(layers, reason)
    modules = dict(model.named_modules(remove_duplicate=False))
    calls = [node for node in graph.nodes if node.op == "call_module"]
    times = Counter(modules[node.target] for node in calls)
    outcome: dict[nn.Module, str] = dict.fromkeys(
        layers, "norm not folded: the model does not call it"
    )
    folded: set[nn.Module] = set()
    for node in calls:
        layer = modules[node.target]
        if not isinstance(layer, PackedBinaryConv2d):
            continue
        obstacle = _obstacle(node, layer, modules, times)
        outcome[layer] = f"norm not folded: {obstacle}"
        if obstacle is None:
            norm = modules[next(iter(node.users)).target]
            layer.norm = norm
            folded.add(norm)
            outcome[layer] = "norm folded"
    for parent in modules.values():
        for name, child in parent._modules.items():
            if child in folded and not isinstance(parent, PackedBinaryConv2d):
                setattr(parent, name, nn.Identity().train(child.training))
    return outcome


def _obstacle(
    node: fx.Node,
    layer: PackedBinaryConv2d,
    modules: dict[str, nn.Module],
    times: Counter[nn.Module],
) -> str | None:
    if layer.norm is not None:
        return "it has one"
    users = list(node.users)
    norm = modules.get(str(users[0].target)) if len(users) == 1 else None
    if type(norm) is not nn.BatchNorm2d or users[0].op != "call_module":
        return "no nn.BatchNorm2d alone reads the output"
    if times[layer] > 1 or times[norm] > 1:
        return "one of the two is called more than once"
    if norm.training or not norm.affine or norm.running_var is None:
        return "the BatchNorm is not affine, has no running statistics, or is in training mode"
    if any(m._forward_hooks or m._forward_pre_hooks for m in (layer, norm)):
        return "one of the two has hooks"
    if norm.num_features != layer.out_channels:
        return "the channel counts differ"
    return None
