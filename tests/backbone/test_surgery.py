"""The demonstration network and a small one of timm, cut, frozen and re-headed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from headstart.backbone.demo_net import DemoNet
from headstart.backbone.stages import describe
from headstart.backbone.surgery import (
    Adapted,
    Lower,
    check_frozen,
    digest,
    freeze,
    learning,
    network_state,
    pooled,
    random_head,
    stage_of,
    untrained,
    upper,
)
from headstart.errors import ArgumentError, InternalError
from networks import random_network

PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8))
EXAMPLE = torch.zeros(1, 3, 32, 32)
HALF = (0.5, 0.5, 0.5)


def demo(classes: int = 3) -> Adapted:
    """The demonstration network with BatchNorm and dropout, and a random head."""
    network = untrained(lambda: DemoNet(num_classes=7), seed=1)
    weight, bias = random_head(classes, 64, seed=0)
    return Adapted(network.eval(), weight, bias, HALF, HALF)


def efficient(classes: int = 3) -> Adapted:
    network = random_network("mobilenetv3_small_050")
    with torch.inference_mode():
        width = pooled(network, EXAMPLE).shape[1]
    return Adapted(network, *random_head(classes, width, 0), HALF, HALF)


def train_a_little(model: Adapted, steps: int = 3) -> None:
    """What any loop does, the rude ones' `.train()` on every part included."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1, 0.9)
    for _ in range(steps):
        model.train()
        for module in model.modules():
            module.train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(PIXELS), torch.arange(6) % 3).backward()
        optimizer.step()


def test_the_new_head_reads_what_the_old_one_read() -> None:
    model = demo()
    pixels = PIXELS.permute(0, 3, 1, 2).float()
    features = pooled(model.network, (pixels / 255 - 0.5) / 0.5)
    expected = features @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model.eval()(PIXELS), expected)


@pytest.mark.parametrize("through", ["conv1", "conv3", "fc1"])
@pytest.mark.parametrize("norm_eval", [False, True])
def test_frozen_stages_keep_every_bit_and_the_others_learn(through: str, norm_eval: bool) -> None:
    model = demo()
    freeze(model, EXAMPLE, through, norm_eval)
    owner = stage_of(model.network, EXAMPLE)
    names = [stage.name for stage in describe(model.network, EXAMPLE)]
    frozen = names[: names.index(through) + 1]
    before, known = copy.deepcopy(model.state_dict()), digest(model)
    train_a_little(model)
    check_frozen(model, known)
    after = model.state_dict()
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name, stage in owner.items():
        same = torch.equal(before[f"network.{name}"], after[f"network.{name}"])
        rests = stage in frozen or (norm_eval and name.endswith(statistics))
        assert same == rests, name
    assert not torch.equal(before["head.weight"], after["head.weight"])
    assert torch.equal(before["network.fc3.weight"], after["network.fc3.weight"])  # never used


def test_dropout_is_off_in_frozen_stages_and_on_in_the_others() -> None:
    model = demo()
    dropouts = {name: m for name, m in model.network.named_modules() if isinstance(m, nn.Dropout)}
    freeze(model, EXAMPLE, "fc1", norm_eval=True)
    for module in model.modules():
        module.train()
    seen: dict[str, bool] = {}
    for name, module in dropouts.items():
        module.register_forward_pre_hook(
            lambda module, _, name=name: seen.__setitem__(name, module.training)
        )
    model(PIXELS)
    assert seen == {"fc1.2": False, "fc2.2": True}


def test_a_change_of_a_frozen_statistic_is_found() -> None:
    model = demo()
    freeze(model, EXAMPLE, "conv2", norm_eval=False)
    known = digest(model)
    train_a_little(model)
    check_frozen(model, known)
    norm = next(m for m in model.network.conv1.modules() if isinstance(m, nn.BatchNorm2d))
    norm.running_var[0] += 1e-7 * norm.running_var[0]
    with pytest.raises(InternalError, match="frozen stage"):
        check_frozen(model, known)


def test_freezing_nothing_lets_everything_learn_but_the_old_classifier() -> None:
    model = demo()
    freeze(model, EXAMPLE, None, norm_eval=False)
    names = {name for name, _ in model.named_parameters()}
    learns = {name for name in learning(model) if "running" not in name and "num_b" not in name}
    assert names - learns == {"network.fc3.weight", "network.fc3.bias"}


def test_an_unknown_stage_is_an_error_that_names_the_stages() -> None:
    with pytest.raises(ArgumentError, match="conv1, conv2"):
        freeze(demo(), EXAMPLE, "conv9", norm_eval=False)


@pytest.mark.parametrize(
    ("make", "through"),
    [(demo, "conv1"), (demo, "conv3"), (demo, "fc1"), (efficient, "stem"), (efficient, "b2")],
)
def test_both_parts_of_a_cut_network_compute_what_the_whole_does(make: Any, through: str) -> None:
    model = make().eval()
    if through == "fc1":
        with pytest.raises(ArgumentError, match="cut in two"):
            upper(model, EXAMPLE, through)  # no map of features to keep
        return
    whole = model(PIXELS)
    above = upper(model, EXAMPLE, through)
    kept = Lower(model, through)(PIXELS)
    torch.testing.assert_close(above.eval()(kept), whole)
    assert set(above.state_dict()) < set(model.state_dict())
    owner = stage_of(model.network, EXAMPLE)
    names = list(dict.fromkeys(owner.values()))
    upstairs = names[names.index(through) + 1 :]
    lives = {f"network.{name}" for name, stage in owner.items() if stage in upstairs}
    assert lives <= set(above.state_dict())


def test_the_lower_part_stops_at_the_cut() -> None:
    model = demo()
    model.network.conv3.register_forward_hook(lambda *_: pytest.fail("ran past the cut"))
    assert Lower(model, "conv2")(PIXELS).shape == (6, 8, 8, 64)


def test_random_weights_depend_on_the_seed_and_leave_the_generator_alone() -> None:
    before = torch.get_rng_state()
    one, two, other = (untrained(DemoNet, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["fc1.0.weight"], other["fc1.0.weight"])


def test_the_state_without_its_classifier_is_contiguous_float32() -> None:
    model = demo().to(memory_format=torch.channels_last)
    state = network_state(model.network.to(torch.bfloat16), without="fc3")
    assert not any(name.startswith("fc3") for name in state)
    assert all(value.is_contiguous() for value in state.values())
    assert all(v.dtype == torch.float32 for v in state.values() if v.is_floating_point())
