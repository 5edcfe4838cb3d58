"""The network rebuilt from a bundle's weights answers as the bundle does, for every strategy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from headstart.data.images import load_pixels
from headstart.errors import ArgumentError, BundleError, WeightsError
from headstart.explain.rebuild import (
    Rebuilt,
    as_input,
    check_agreement,
    pooled,
    randomised,
    rebuild,
)
from headstart.plan.decide import Candidate
from headstart.ship.predict import Model, load, wide

TOP = Candidate("t", "head_top", None, 1)
CUT = Candidate("c", "head_cut", "layer1", 2)
ALL = Candidate("a", "all_stages", None, None)
EVERY = [
    ("test_resnet", TOP),
    ("test_resnet", replace(TOP, spread=True)),
    ("test_resnet", replace(TOP, hidden=6)),
    ("test_resnet", CUT),
    ("test_resnet", replace(CUT, spread=True, hidden=6)),
    ("test_resnet", ALL),
    ("test_resnet", replace(ALL, spread=True)),
    ("test_resnet", replace(ALL, spread=True, hidden=6)),
    ("test_resnet", Candidate("f", "finetune", None, 3)),
    ("test_resnet", Candidate("s", "scratch", None, 4)),
    ("test_efficientnet", replace(ALL, spread=True)),
    ("test_efficientnet", replace(CUT, cut="stem")),
    ("test_convnext", TOP),
    ("demo", TOP),
    ("demo", ALL),
    ("demo", replace(CUT, cut="conv2")),
    ("demo", replace(CUT, cut="fc1")),
]


def rebuilt(folder: Path) -> tuple[Model, Rebuilt]:
    model = load(folder)
    return model, rebuild(model.bundle.folder, model.bundle.description, model.bundle.preprocess)


@pytest.mark.parametrize(("name", "candidate"), EVERY)
def test_every_strategy_answers_as_its_bundle(
    bundle_of: Callable[..., Path], pictures: list[Path], name: str, candidate: Candidate
) -> None:
    model, network = rebuilt(bundle_of(name, candidate))
    pre = model.bundle.preprocess
    expected = model.probabilities(np.stack([load_pixels(p, wide(pre))[0] for p in pictures]))
    pixels = np.stack([load_pixels(p, pre)[0] for p in pictures])
    assert np.ptp(expected) > 0.05
    assert check_agreement(network, pixels, expected, model.bundle.temperature) < 1e-4


@pytest.mark.parametrize(("name", "candidate"), EVERY)
def test_slopes_reach_the_pixels_and_are_finite(
    bundle_of: Callable[..., Path], name: str, candidate: Candidate
) -> None:
    _, network = rebuilt(bundle_of(name, candidate))
    side = network.preprocess.size_px
    pictures = [np.full((1, side, side, 3), 90, np.uint8)]  # one colour: deviations of zero
    pictures.append(np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8))
    for pixels in pictures:
        x = as_input(pixels).requires_grad_()
        (slope,) = torch.autograd.grad(network(x)[0, 0], x)
        assert torch.isfinite(slope).all()
    assert slope.abs().max() > 0


def test_what_the_head_does_not_read_never_runs(bundle_of: Callable[..., Path]) -> None:
    _, network = rebuilt(bundle_of("test_resnet", CUT))
    ran = []
    network.network.layer2.register_forward_hook(lambda *_: ran.append(1))
    network(torch.zeros(1, 3, 64, 64))
    assert ran == []
    assert list(network.positions) == list(network.kept)
    with pytest.raises(ArgumentError, match=r"no stage of this name.*layer1"):
        network.place("layer4")


def test_nothing_in_it_learns(bundle_of: Callable[..., Path]) -> None:
    _, network = rebuilt(bundle_of("test_resnet", ALL))
    assert not any(p.requires_grad for p in network.parameters())
    assert not any(module.training for module in network.modules())


def test_a_deviation_of_zero_has_no_slope() -> None:
    flat = torch.full((1, 2, 3, 3), 5.0, requires_grad=True)
    found = pooled("s", flat, spread=True)["s/std"]
    found.sum().backward()
    assert found.max() < 1e-6
    assert torch.equal(flat.grad, torch.zeros_like(flat))


def test_another_answer_is_refused(bundle_of: Callable[..., Path], pictures: list[Path]) -> None:
    model, network = rebuilt(bundle_of("test_resnet", TOP))
    pre = model.bundle.preprocess
    wider = np.stack([load_pixels(p, wide(pre))[0] for p in pictures])
    pixels = np.stack([load_pixels(p, pre)[0] for p in pictures])
    expected = model.probabilities(wider)
    for wrong in (expected[:, ::-1], expected * np.nan, expected[:, :2]):
        with pytest.raises(BundleError, match="does not answer as the model does"):
            check_agreement(network, pixels, wrong, model.bundle.temperature)


@pytest.mark.parametrize(
    "damage", ["missing", "unknown", "shape", "name", "hub", "stage", "no head"]
)
def test_a_bundle_that_does_not_fit_is_refused_in_one_sentence(
    bundle_of: Callable[..., Path], tmp_path: Path, damage: str
) -> None:
    folder = Path(shutil.copytree(bundle_of("test_resnet", TOP), tmp_path / "model"))
    bundle = load(folder).bundle
    description = dict(bundle.description)
    state = load_file(folder / "model.safetensors")
    if damage == "missing":
        state.pop("backbone.layer4.0.conv1.weight")
    elif damage == "unknown":
        state["backbone.layer9.weight"] = torch.zeros(1)
    elif damage == "shape":
        state[
            "backbone.conv1.0.weight"
            if "backbone.conv1.0.weight" in state
            else "backbone.conv1.weight"
        ] = torch.zeros(1)
    elif damage == "name":
        description["backbone"] = {"name": "no_such_network"}
    elif damage == "hub":
        description["backbone"] = {"name": "hf-hub:somebody/something"}
    elif damage == "stage":
        description["stages"] = {"kept": ["layer1", "layer7"]}
    else:
        description.pop("head")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(BundleError, match="cannot be rebuilt"):
        rebuild(folder, description, bundle.preprocess)


def test_random_weights_depend_on_the_seed_alone(bundle_of: Callable[..., Path]) -> None:
    _, network = rebuilt(bundle_of("test_resnet", replace(ALL, spread=True, hidden=6)))
    x = torch.rand(1, 3, 64, 64) * 255
    one, again, other = (randomised(network, seed)(x) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, network(x))


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": []},
        {"backbone": {"name": None}},
        {"stages": {"kept": []}},
        {"stages": "all"},
        {"head": {"reads": ["layer1"], "hidden": "x"}},
        {"head": {"reads": ["layer9"], "hidden": 0}},
        {"head": {"reads": [], "hidden": 0}},
        {"head": {"reads": ["layer1", "layer1"], "hidden": 0}},
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    bundle_of: Callable[..., Path], change: dict[str, Any]
) -> None:
    bundle = load(bundle_of("test_resnet", TOP)).bundle
    with pytest.raises(BundleError, match="cannot be rebuilt"):
        rebuild(bundle.folder, dict(bundle.description) | change, bundle.preprocess)


def test_weights_that_are_none_are_refused(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    bundle = load(bundle_of("test_resnet", TOP)).bundle
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        rebuild(tmp_path, bundle.description, bundle.preprocess)
