"""Explicit choices of a kernel and tile, and the table of measured ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from cases import Case
from compare import assert_same_bits
from configurations import packed_operands
from test_plan import AMPERE, AMPERE_OF_H200_SIZE, BLACKWELL, CALL, TURING, layer, macros
from test_plan_wgmma import H200

from binop._cuda import tuned, variants
from binop._cuda.choice import VARIABLE, Choice, forced, forced_choice
from binop._cuda.conv_call import ResidualSum
from binop._cuda.conv_kernels import CONV_KERNELS, choices, plan_choice, why_not_choice
from binop._cuda.launches import Device, Launch
from binop._cuda.plan_conv import choice_by_estimate, plan_conv
from binop._cuda.tuned import Entry, Key

S3 = layer(256, 14, 256)
_SMALL = Case("small", 64, 64, h=8, w=8, n=2)


@pytest.mark.parametrize(
    ("text", "choice"),
    [("conv_mma", Choice("conv_mma")), ("conv_wgmma 128x3", Choice("conv_wgmma", (128, 3)))],
)
def test_choices_are_text(text: str, choice: Choice) -> None:
    assert str(choice) == text
    assert Choice.parse(f" {text}\n") == choice


@pytest.mark.parametrize("device", [H200, AMPERE_OF_H200_SIZE, AMPERE, BLACKWELL, TURING])
@pytest.mark.parametrize("out", ["bits", "bfloat16"])
@pytest.mark.parametrize("batch", [1, 256])
def test_the_heuristic_s_choice_is_its_plan(device: Device, out: str, batch: int) -> None:
    for geometry in (layer(64, 56, 64, batch), layer(256, 14, 256, batch), layer(33, 9, 6, batch)):
        call = replace(CALL, out=out)
        planned = plan_conv(geometry, call, device)
        choice = choice_by_estimate(geometry, call, device)
        assert planned is not None
        chosen = plan_choice(geometry, call, device, choice)
        # (The reason of popcount instructions is what keeps the others from it.)
        assert replace(chosen, reason="") == replace(planned, reason="")


@pytest.mark.parametrize("device", [H200, AMPERE])
def test_every_listed_choice_is_followed(device: Device) -> None:
    listed = [choice for choice, _ in choices(S3, CALL, device)]
    assert len(set(listed)) == len(listed) > 5
    launches = {choice: plan_choice(S3, CALL, device, choice) for choice in listed}
    assert len({(each.kernel, each.sizes) for each in launches.values()}) == len(listed)
    for choice, launch in launches.items():
        assert launch.kernel.entry == choice.kernel
        if choice.kernel != "conv_mma":
            numbers = [macros(launch).get(name) for name in ("TILE_N", "CONSUMERS", "BLOCKS")]
            assert tuple(number for number in numbers if number is not None) == choice.tile


def test_a_kernel_alone_leaves_the_tile_to_the_plan() -> None:
    for name in CONV_KERNELS:
        launch = plan_conv(S3, CALL, H200, Choice(name))
        assert launch is not None
        assert launch.kernel.entry == name


@pytest.mark.parametrize(
    ("choice", "device", "why"),
    [
        (
            Choice("conv_fast"),
            H200,
            "expected a kernel out of conv_wgmma, conv_wgmma_in_place, conv_wgmma_rows, conv_mma",
        ),
        (Choice("conv_wgmma"), AMPERE, "no warpgroup-wide"),
        (Choice("conv_mma"), TURING, "no 1-bit matrix instructions"),
        (Choice("conv_wgmma", (48, 1)), H200, r"a tile \(channels x consumers\) out of 32x1, 32x2"),
        (
            Choice("conv_wgmma_in_place", (64, 1)),
            H200,
            r"a tile \(channels x consumers x blocks\) out of 32x4x1, 32x3x1",
        ),
        (Choice("conv_simt", (1,)), H200, "no tiles"),
    ],
)
def test_a_choice_that_cannot_be_followed_says_why(
    choice: Choice, device: Device, why: str
) -> None:
    with pytest.raises(ValueError, match=rf"{choice} cannot convolve .*{why}"):
        plan_conv(S3, CALL, device, choice)


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "conv_wgmma 64x2")
    launch = plan_conv(S3, CALL, H200)
    assert launch is not None
    assert launch == plan_choice(S3, CALL, H200, Choice("conv_wgmma", (64, 2)))
    with forced(Choice("conv_mma")):
        assert forced_choice() == Choice("conv_mma")
    for empty in ("", None):
        monkeypatch.setenv(VARIABLE, empty) if empty is not None else monkeypatch.delenv(VARIABLE)
        assert forced_choice() is None
    monkeypatch.setenv(VARIABLE, "conv_wgmma wide")
    with pytest.raises(ValueError, match=f"{VARIABLE}: expected a choice like"):
        plan_conv(S3, CALL, H200)


def test_ops_follow_a_choice_and_forget_it(hopper: ModuleType, launched: list[Launch]) -> None:
    x, weight = packed_operands(_SMALL)
    arguments = (x, weight, _SMALL.c, torch.arange(64, dtype=torch.int32), torch.rand(64) < 0.5)
    wanted = torch.ops.binop.binary_conv2d_threshold(*arguments, padding=(1, 1))
    for choice in (None, Choice("conv_mma"), Choice("conv_wgmma", (32, 2)), None):
        if choice is None:
            got = hopper.binary_conv2d_threshold(*arguments, padding=(1, 1))
        else:
            with hopper.planned_by(choice):
                got = hopper.binary_conv2d_threshold(*arguments, padding=(1, 1))
        assert_same_bits(got, wanted)
    first, mma, wide, last = launched
    assert first == last
    assert mma.kernel.entry == "conv_mma"
    assert (wide.kernel.entry, macros(wide)["TILE_N"], wide.threads) == ("conv_wgmma", 32, 384)


def test_a_forced_kernel_also_convolves_what_would_be_packed_in_the_same_launch(
    hopper: ModuleType, launched: list[Launch]
) -> None:
    tensors = replace(_SMALL, n=1, h=5, w=5).tensors()
    hopper.binary_conv2d(*tensors, padding=(1, 1))
    with hopper.planned_by(Choice("conv_mma")):
        hopper.binary_conv2d(*tensors, padding=(1, 1))
    assert [launch.kernel.entry for launch in launched] == ["conv_fused", "pack", "conv_mma"]


_ENTRY = Entry(Key.of(S3, CALL, H200), Choice("conv_wgmma", (64, 2)), 12.3, 13.0)


def _use(monkeypatch: pytest.MonkeyPatch, *entries: Entry) -> None:
    monkeypatch.setattr(tuned, "_table", lambda: {entry.key: entry.choice for entry in entries})


def test_a_measured_choice_goes_before_the_heuristic(monkeypatch: pytest.MonkeyPatch) -> None:
    _use(monkeypatch, _ENTRY)
    launch = plan_conv(S3, CALL, H200)
    wanted = plan_choice(S3, CALL, H200, _ENTRY.choice)
    assert launch == replace(wanted, reason=f"tuned: {wanted.reason}")
    explicit = plan_conv(S3, CALL, H200, Choice("conv_mma"))
    assert explicit is not None
    assert explicit.kernel.entry == "conv_mma"


def test_a_measured_choice_is_of_one_shape_output_and_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _use(monkeypatch, _ENTRY)
    assert tuned.find(S3, replace(CALL, scale_w_stride=1, bias_stride=1), H200) is not None
    for geometry, call, device in (
        (replace(S3, batch=255), CALL, H200),
        (S3, replace(CALL, out="bits"), H200),
        (S3, replace(CALL, channels_last=False), H200),
        (S3, replace(CALL, pad_value=1), H200),
        (S3, replace(CALL, residual=ResidualSum(False, False, False)), H200),
        (S3, CALL, replace(H200, multiprocessors=114)),
        (S3, CALL, AMPERE),
    ):
        assert tuned.find(geometry, call, device) is None


def test_a_tile_that_is_no_more_leaves_it_to_the_heuristic(monkeypatch: pytest.MonkeyPatch) -> None:
    untuned = plan_conv(S3, CALL, H200)
    _use(monkeypatch, replace(_ENTRY, choice=Choice("conv_wgmma", (48, 2))))
    assert plan_conv(S3, CALL, H200) == untuned


def test_the_table_is_a_readable_file(tmp_path: Path) -> None:
    other = replace(_ENTRY, key=replace(_ENTRY.key, out="bits"), choice=Choice("conv_mma"))
    path = tmp_path / "tuned.json"
    tuned.save([_ENTRY, other], path)
    assert len(path.read_text().splitlines()) == 7
    assert set(tuned.load(path)) == {_ENTRY, other}
    again = tmp_path / "again.json"
    tuned.save(reversed(tuned.load(path)), again)
    assert again.read_text() == path.read_text()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 2, "entries": []}', '{"format": 1, "entries": [{"us": 1}]}']
)
def test_another_file_is_no_table(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"tuned.json: not a table of choices"):
        tuned.load(path)


def test_the_committed_table_is_one_that_the_plan_can_follow(tmp_path: Path) -> None:
    entries = tuned.load(tuned.PATH)
    assert len({entry.key for entry in entries}) == len(entries)
    for entry in entries:
        assert entry.key.capability == (9, 0), "say here how much shared memory it has"
        device = replace(H200, multiprocessors=entry.key.multiprocessors)
        obstacle = why_not_choice(entry.key.geometry, entry.key.call, device, entry.choice)
        assert obstacle is None, f"{obstacle}: measure again (python -m binop bench --tune)"
        assert entry.us < entry.heuristic_us
    again = tmp_path / "again.json"
    tuned.save(entries, again)
    assert again.read_text() == tuned.PATH.read_text()


def test_measured_choices_are_compiled_ahead(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "tuned.json"
    tuned.save([_ENTRY], path)
    monkeypatch.setattr(tuned, "PATH", path)
    kernel = plan_choice(S3, CALL, H200, _ENTRY.choice).kernel
    listed = list(variants.kernels())
    assert kernel in listed
    assert len(set(listed)) == len(listed)


def test_tiles_have_names() -> None:
    for choice, cycles in choices(S3, CALL, H200):
        assert choice.tile is not None
        assert len(choice.tile) == len(CONV_KERNELS[choice.kernel].tile_names)
        assert cycles > 0
