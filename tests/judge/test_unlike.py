"""Foreign images are flagged, images like the training's as often as promised, from few bytes."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from headstart.data.split import assign_folds
from headstart.errors import ArgumentError
from headstart.judge.unlike import (
    BANK,
    Unlike,
    false_alarms,
    fit_unlike,
    held_out_strangeness,
    strangeness,
    unlike_arrays,
    unlike_from_arrays,
)


def clothes(seed: int, n: int, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Positive features with a common part, as pooled ReLUs have them: features, labels."""
    rng, common = np.random.default_rng(seed), np.random.default_rng(99)
    share, kinds = common.exponential(1, width), common.exponential(1, (4, width))
    labels = rng.integers(0, 4, n)
    return (share + kinds[labels] + rng.exponential(0.6, (n, width))).astype(np.float32), labels


def foreign(seed: int, n: int, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).exponential(1.5, (n, width)).astype(np.float32)


def fitted(seed: int = 0, n: int = 500, rate: float = 0.05) -> Unlike:
    x, y = clothes(seed, n)
    groups = np.arange(n)
    return fit_unlike(x, y, groups, assign_folds(y, groups, 5, 0), rate)


def test_foreign_images_are_flagged_and_others_as_often_as_promised() -> None:
    flagged, alarms = [], []
    for seed in range(10):
        unlike = fitted(seed)
        flagged.append((strangeness(unlike, foreign(seed, 200)) > 1).mean())
        metric = false_alarms(unlike, clothes(1000 + seed, 1000)[0])
        assert metric.low is not None and metric.high is not None and metric.value is not None
        assert metric.low <= metric.value <= metric.high
        alarms.append(metric.value)
        assert abs(unlike.false_alarms - 0.05) < 0.02
    assert np.mean(flagged) >= 0.95
    assert 0.03 <= np.mean(alarms) <= 0.06


def test_the_rate_is_the_users() -> None:
    x = clothes(7, 2000)[0]
    shares = [false_alarms(fitted(rate=rate), x).value for rate in (0.02, 0.1, 0.3)]
    assert shares == sorted(shares)  # type: ignore[type-var]
    assert abs(shares[2] - 0.3) < 0.06  # type: ignore[operator]


def test_a_threshold_from_the_training_images_themselves_would_lie() -> None:
    """Why held-out images set it: with copies in other folds, nearly everything new is flagged."""
    x, y = clothes(0, 60)
    copies, labels, groups = np.tile(x, (5, 1)), np.tile(y, 5), np.tile(np.arange(60), 5)
    careless = fit_unlike(copies, labels, np.arange(300), np.repeat(np.arange(5), 60))
    careful = fit_unlike(copies, labels, groups, assign_folds(labels, groups, 5, 0))
    fresh = clothes(5, 1000)[0]
    assert false_alarms(careless, fresh).value > 0.5  # type: ignore[operator]
    assert false_alarms(careful, fresh).value < 0.1  # type: ignore[operator]


def test_one_group_with_many_photos_does_not_fill_the_bank() -> None:
    x, y = clothes(0, 300)
    rng = np.random.default_rng(0)
    many = x[:1] + rng.normal(0, 0.01, (2000, 64)).astype(np.float32)
    features = np.concatenate([x, many])
    labels = np.concatenate([y, np.full(2000, y[0])])
    groups = np.concatenate([np.arange(300), np.zeros(2000, dtype=int)])
    unlike = fit_unlike(features, labels, groups, assign_folds(labels, groups, 5, 0))
    assert len(unlike.bank) == 300 and unlike.groups == 300
    assert false_alarms(unlike, clothes(5, 1000)[0]).value < 0.1  # type: ignore[operator]


def test_what_is_stored_is_small_and_gives_the_same_answers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.exponential(1, (900, 4200)).astype(np.float32)
    y, groups = rng.integers(0, 3, 900), np.arange(900)
    unlike = fit_unlike(x, y, groups, assign_folds(y, groups, 5, 0))
    save_file(unlike_arrays(unlike), tmp_path / "unlike.safetensors")
    assert (tmp_path / "unlike.safetensors").stat().st_size <= 2_000_000
    again = unlike_from_arrays(load_file(tmp_path / "unlike.safetensors"), 4200)
    assert (strangeness(again, x) == strangeness(unlike, x)).all()
    assert (again.threshold, again.rate, again.false_alarms, again.n, again.groups) == (
        unlike.threshold, unlike.rate, unlike.false_alarms, 900, 900,
    )  # fmt: skip


def test_prediction_takes_less_than_a_millisecond() -> None:
    bank = np.random.default_rng(0).random((BANK, 2100), dtype=np.float32)
    unlike = Unlike(bank, 0.5, 0.05, 0.05, 500, 500)
    strangeness(unlike, bank[:1])
    took = []
    for _ in range(50):
        began = time.perf_counter()
        strangeness(unlike, bank[:1])
        took.append(time.perf_counter() - began)
    assert min(took) < 1e-3  # the machine may be busy; the work is what is asked for


def test_brightness_does_not_matter_and_an_empty_image_is_flagged() -> None:
    unlike, x = fitted(), clothes(3, 50)[0]
    assert np.allclose(strangeness(unlike, x), strangeness(unlike, 7 * x), atol=1e-4)
    assert strangeness(unlike, np.zeros((1, 64)))[0] > 1


def test_an_odd_training_image_is_found_when_it_is_held_out() -> None:
    x, y = clothes(0, 300)
    x[17] = foreign(0, 1)[0]
    groups = np.arange(300)
    folds = assign_folds(y, groups, 5, 0)
    unlike = fit_unlike(x, y, groups, folds)
    far = held_out_strangeness(unlike, x, y, groups, folds)
    assert far.argmax() == 17 and far[17] > 1
    assert (far > 1).mean() <= unlike.rate
    assert strangeness(unlike, x[17:18])[0] <= far[17]  # the bank may hold the image itself


def test_mistakes_are_named() -> None:
    x, y = clothes(0, 40)
    groups, folds = np.arange(40), np.arange(40) % 5
    with pytest.raises(ArgumentError, match="between 0 and 1"):
        fit_unlike(x, y, groups, folds, rate=1.0)
    with pytest.raises(ArgumentError, match="At least 99 images"):
        fit_unlike(x, y, groups, folds, rate=0.01)
    with pytest.raises(ArgumentError, match="Too few"):
        fit_unlike(x, y, groups % 3, folds)
    with pytest.raises(ArgumentError, match="64 are wanted"):
        strangeness(fitted(), x[:, :30])
    stored = unlike_arrays(fitted())
    with pytest.raises(ArgumentError, match="does not fit"):
        unlike_from_arrays(stored, 65)
    with pytest.raises(ArgumentError, match="does not fit"):
        unlike_from_arrays(stored | {"unlike.numbers": np.full(5, np.nan)}, 64)
