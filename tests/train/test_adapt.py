from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headstart.backbone.surgery import pooled
from headstart.train.adapt import adapt
from headstart.train.finetune import open_fabric
from lessons import lesson, recipe, start


def adapted(folder: Path, **options: Any) -> tuple[Any, list[str]]:
    said: list[str] = []
    told = replace(lesson(), hashes=tuple(f"image {i}" for i in range(48)))
    through = options.pop("through", "conv2")
    made = recipe("partial" if through else "finetune", through=through, epochs=6)
    tuned = adapt(open_fabric("cpu"), start(), told, made, folder, say=said.append, **options)
    return tuned, said


@pytest.mark.parametrize(
    ("through", "budget_mb", "told"),
    [
        ("conv2", 100, "keeping what the frozen part says"),
        ("conv2", 0, "do not fit 0 MB"),
        ("fc1", 100, "cannot be cut after fc1"),
        (None, 100, None),
    ],
)
def test_the_state_is_that_of_the_whole_network_whichever_road_was_taken(
    through: str | None, budget_mb: float, told: str | None, tmp_path: Path
) -> None:
    tuned, said = adapted(tmp_path, through=through, budget_mb=budget_mb)
    assert (told is None and not said) or any(told in line for line in said)  # type: ignore[operator]
    before = start().network.state_dict()
    assert set(tuned.state) == set(before)
    moved = {name for name, value in tuned.state.items() if not torch.equal(value, before[name])}
    names = ["conv1", "conv2", "conv3", "fc1", "fc2"]
    frozen = names[: names.index(through) + 1] if through else []
    assert not any(name.startswith((*frozen, "fc3")) for name in moved)
    assert "fc2.0.weight" in moved or tuned.alpha == 0
    # What is handed over computes what was validated.
    other = start(seed=4)
    other.network.load_state_dict(dict(tuned.state))
    pixels = lesson().source.whole(np.arange(32, 48))
    with torch.no_grad():
        seen = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        features = pooled(other.network, seen).numpy()
    np.testing.assert_allclose(tuned.head.logits(features), tuned.logits, atol=2e-2)


def test_views_of_a_finished_cache_are_used_again(tmp_path: Path) -> None:
    adapted(tmp_path)
    for path in tmp_path.glob("step-*"):
        path.unlink()
    _, said = adapted(tmp_path)
    assert said == []
