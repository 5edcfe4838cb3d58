"""Partial tuning on cached activations, against the same recipe on the whole network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headstart.backbone.surgery import Lower, freeze, upper
from headstart.errors import InternalError
from headstart.train.augment import Augment
from headstart.train.boundary import BoundarySource, views_that_fit
from lessons import digest_of, lesson, recipe, start, train

EXAMPLE = torch.zeros(1, 3, 32, 32)


def cached(folder: Path, count: int = 2, through: str = "conv2", **changes: Any) -> Any:
    """The lesson with activations for pixels, and the part of the network that learns."""
    from dataclasses import replace

    told, model = changes.pop("lesson", None) or lesson(), start()
    above = upper(model, EXAMPLE, through)
    said: list[str] = []
    source = BoundarySource(
        told.source,
        told.valid,
        Lower(model, through),
        folder,
        count,
        changes.pop("key", "k"),
        said.append,
    )
    return replace(told, source=source), above, said


def test_activations_are_those_of_the_views(tmp_path: Path) -> None:
    told, _, _ = cached(tmp_path)
    rows = np.array([5, 2, 9])
    for epoch in (0, 1, 3):
        pixels = lesson().source.views(epoch % 2, rows).inputs
        expected = Lower(start(), "conv2")(torch.from_numpy(pixels)).half().numpy()
        np.testing.assert_allclose(told.source.views(epoch, rows).inputs, expected, atol=2e-3)
    whole = Lower(start(), "conv2")(torch.from_numpy(lesson().source.whole(told.valid)))
    np.testing.assert_allclose(told.source.whole(told.valid), whole.half().numpy(), atol=2e-3)


def test_every_view_is_computed_once(tmp_path: Path) -> None:
    told, above, said = cached(tmp_path, count=2)
    train(tmp_path / "run", recipe("partial", through="conv2", epochs=5), model=above, lesson=told)
    assert told.source.computed == 3  # two views, and the images as they are served
    assert len(said) == 1


def test_training_on_the_cache_is_training_the_whole_with_its_lower_part_frozen(
    tmp_path: Path,
) -> None:
    # At higher rates the rounding to 16 bits is enough to lead another way.
    made = recipe("partial", through="conv2", norm_eval=True, rate=1e-3)
    plain = train(tmp_path / "a", made, lesson=lesson(Augment()))
    told, above, _ = cached(tmp_path / "cache", lesson=lesson(Augment()))
    fast = train(tmp_path / "b", made, lesson=told, model=above)
    assert set(fast.state) < set(plain.state)
    for name, value in fast.state.items():
        if "num_batches" not in name:
            torch.testing.assert_close(value, plain.state[name], atol=2e-2, rtol=2e-2)
    # Which mixture is chosen may hang on a rounding; what each of them answers does not.
    for which, logits in plain.trials.items():
        np.testing.assert_allclose(fast.trials[which], logits, atol=5e-2)


def test_a_resumed_run_uses_the_views_that_are_whole(tmp_path: Path) -> None:
    made = recipe("partial", through="conv2")
    told, above, _ = cached(tmp_path)
    first = train(tmp_path / "a", made, lesson=told, model=above)
    (tmp_path / "activations-1.f16").write_bytes(b"half of i")
    (tmp_path / "activations-whole.json").unlink()
    told, above, _ = cached(tmp_path)
    again = train(tmp_path / "b", made, lesson=told, model=above)
    assert digest_of(first) == digest_of(again)
    assert told.source.computed == 2  # the second view, and the images as they are served


def test_activations_of_other_weights_or_images_are_not_used(tmp_path: Path) -> None:
    told, _, _ = cached(tmp_path)
    told.source.prepare(0)
    other, _, said = cached(tmp_path, key="other")
    other.source.prepare(0)
    assert len(said) == 1


def test_what_16_bits_cannot_hold_is_an_error(tmp_path: Path) -> None:
    model = start()
    model.network.conv2[1].weight.data.mul_(1e9)
    told = lesson()
    with pytest.raises(InternalError, match="16 bits"):
        BoundarySource(told.source, told.valid, Lower(model, "conv2"), tmp_path, 1, "k", print)


def test_the_budget_decides_how_many_views_there_are() -> None:
    assert views_that_fit(1000, 0, 1000, 100, budget_mb=2.5) == 2
    assert views_that_fit(1000, 0, 1000, 100, budget_mb=0.5) == 0
    assert views_that_fit(1000, 0, 1000, 3, budget_mb=1e6) == 3


def test_the_frozen_part_does_not_move(tmp_path: Path) -> None:
    model = start()
    freeze(model, EXAMPLE, "conv2", norm_eval=False)
    model.train()
    before = model.network.conv1[1].running_mean.clone()
    Lower(model, "conv2")(torch.zeros(4, 32, 32, 3, dtype=torch.uint8))
    assert torch.equal(before, model.network.conv1[1].running_mean)


def test_a_run_without_a_validation_part_keeps_only_its_views(tmp_path: Path) -> None:
    told, above, _ = cached(tmp_path, lesson=lesson(valid=0))
    tuned = train(tmp_path / "a", recipe("partial", through="conv2"), lesson=told, model=above)
    assert tuned.score is None and told.source.computed == 2


def test_the_time_of_the_frozen_part_counts_also_after_a_stop(tmp_path: Path) -> None:
    first, _, _ = cached(tmp_path)
    first.source.prepare(0)
    assert first.source.seconds > 0
    again, _, _ = cached(tmp_path)
    again.source.prepare(0)
    assert again.source.computed == 0 and again.source.seconds == first.source.seconds
