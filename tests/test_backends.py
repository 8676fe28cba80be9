"""Choosing a backend: a device whose kernels cannot run is served all the same, and says so."""

from __future__ import annotations

import warnings

import pytest
import torch

from binop import backends


@pytest.fixture(autouse=True)
def _fresh_choice() -> None:
    backends._warn_once.cache_clear()


class _OnDevice:
    """Stands for a tensor of a device that this machine need not have."""

    def get_device(self) -> int:
        return 3


def test_an_obstacle_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "cuda_obstacle", lambda device: "no kernels for this")
    calls = []
    ops = [backends.on_cuda(name, lambda *a, **k: calls.append((a, k))) for name in "ab"]
    with pytest.warns(UserWarning, match=r"cuda:3 through plain torch.*no kernels for this"):
        ops[0](_OnDevice(), 1, option=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ops[0](_OnDevice(), 3)
        ops[1](_OnDevice())
    assert [(args[1:], kwargs) for args, kwargs in calls] == [
        ((1,), {"option": 2}),
        ((3,), {}),
        ((), {}),
    ]


def test_without_a_device_the_reason_is_named() -> None:
    if torch.cuda.is_available():
        assert backends.cuda_obstacle(0) is None
    else:
        assert "CUDA" in (backends.cuda_obstacle(0) or "")
