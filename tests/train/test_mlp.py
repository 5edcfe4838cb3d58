from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import check_grad

from headstart.plan.criterion import Criterion
from headstart.train import mlp
from headstart.train.head import HeadTask, cross_entropy, train_head
from headstart.train.mlp import STRENGTHS, MlpHead, search_mlp, train_mlp

Array = NDArray[np.float32]
Int = NDArray[np.int64]


def xor(n: int, d: int = 12, seed: int = 0) -> tuple[Array, Int]:
    """Two classes that no plane parts, among features of many scales and one that never moves."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], (n, 2))
    x = rng.normal(size=(n, d))
    x[:, :2] = 2 * signs + 0.4 * rng.normal(size=(n, 2))
    scale, place = rng.uniform(0.1, 5, d), 10 * rng.normal(size=d)
    x = x * scale + place
    x[:, 2] = 7.3
    return x.astype(np.float32), (signs.prod(1) > 0).astype(np.int64)


def task(labels: Int, folds: int = 4) -> HeadTask:
    n = len(labels)
    held = np.random.default_rng(0).permutation(n) % folds
    return HeadTask(labels, held, np.arange(n), 2, Criterion("accuracy", "accuracy"))


def accuracy(logits: NDArray[np.floating], labels: Int) -> float:
    return float((logits.argmax(1) == labels).mean())


@pytest.mark.parametrize(("n", "d"), [(400, 12), (60, 200)])
def test_a_hidden_layer_learns_what_no_linear_head_can(n: int, d: int) -> None:
    x, labels = xor(n, d=12)
    if d > 12:  # fewer images than features: the rotated road, on copies of the same columns
        x = np.tile(x, (1, d // 12 + 1))[:, :d]
    head = train_mlp(x, labels, 2, 24, 0.01, 0)
    assert accuracy(head.logits(x), labels) > 0.97
    linear = train_head(x, labels, 2, 0.01, 0)
    assert accuracy(linear.logits(x), labels) < 0.75


def test_what_it_learned_holds_for_new_images() -> None:
    x, labels = xor(500)
    head = train_mlp(x[:400], labels[:400], 2, 24, 0.01, 0)
    assert accuracy(head.logits(x[400:]), labels[400:]) > 0.9


def test_the_slope_is_that_of_the_loss() -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(30, 5)), np.arange(30) % 3
    shapes = [(5, 4), (4,), (4, 3), (3,)]
    loss = mlp._objective(x, labels, 0.1, shapes)  # type: ignore[arg-type]
    flat = rng.normal(size=5 * 4 + 4 + 4 * 3 + 3)
    slope = loss(flat)[1]
    off = check_grad(lambda v: loss(v)[0], lambda v: loss(v)[1], flat, epsilon=1e-7)
    assert off < 1e-4 * np.linalg.norm(slope)


def test_one_wider_layer_gives_the_mean_of_its_members() -> None:
    x, labels = xor(80)
    space = mlp.Space(x)
    starts = mlp._starts(space, 2, 7, 3)
    assert [start[0].shape[1] for start in starts] == [3, 2, 2]
    nets = [mlp._minimise(space.rotated, labels, 0.03, start) for start in starts]
    mean = np.mean([mlp._answers(space.rotated, net) for net in nets], axis=0)
    head = train_mlp(x, labels, 2, 7, 0.03, 3)
    assert head.hidden_weight.shape == (7, 12)
    assert head.hidden_bias.shape == (7,)
    assert head.weight.shape == (2, 7)
    assert head.bias.shape == (2,)
    np.testing.assert_allclose(head.logits(x), mean, atol=1e-3)
    assert (head.hidden_weight[:, 2] == 0).all()  # a feature that never moves


@pytest.mark.parametrize("width", [1, 2])
def test_a_layer_narrower_than_the_members_has_fewer(width: int) -> None:
    x, labels = xor(60)
    head = train_mlp(x, labels, 2, width, 0.03, 0)
    assert head.hidden_weight.shape == (width, 12)
    assert np.isfinite(head.logits(x)).all()


def test_the_seed_decides_and_nothing_else() -> None:
    x, labels = xor(80, 100)
    one, two, other = (train_mlp(x, labels, 2, 9, 0.03, seed) for seed in (7, 7, 8))
    for name in MlpHead.__slots__:
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes()
        assert getattr(one, name).dtype == np.float32
        assert getattr(one, name).flags.c_contiguous
    assert one.hidden_weight.tobytes() != other.hidden_weight.tobytes()
    alone, together = (search_mlp(x, task(labels), 9, 7, workers) for workers in (1, 3))
    assert alone.logits.tobytes() == together.logits.tobytes()
    assert alone.strength == together.strength


def test_answers_do_not_depend_on_the_scale_of_a_feature() -> None:
    x, labels = xor(80)
    scaled = x.copy()
    scaled[:, 4] *= 1024
    plain, other = (train_mlp(data, labels, 2, 9, 0.03, 0).logits(data) for data in (x, scaled))
    np.testing.assert_allclose(plain, other, atol=2e-3 * np.abs(plain).max())


def test_the_search_holds_every_image_out() -> None:
    x, labels = xor(240)
    found = search_mlp(x, task(labels), 24, 0, 2)
    assert found.strength in STRENGTHS
    assert found.logits.shape == found.train_logits.shape == (240, 2)
    assert accuracy(found.logits, labels) > 0.85
    fitted, held_out = (cross_entropy(z, labels).mean() for z in (found.train_logits, found.logits))
    assert fitted < held_out
    assert found.seconds > 0
    luck = np.random.default_rng(5).permutation(labels)
    blind = search_mlp(x, task(luck), 24, 0, 2)
    assert abs(accuracy(blind.logits, luck) - 0.5) < 0.15
    assert cross_entropy(blind.train_logits, luck).mean() < cross_entropy(blind.logits, luck).mean()
    assert blind.strength == STRENGTHS[0]


def test_the_loss_of_the_held_out_answers_is_least_at_the_strength_that_was_found() -> None:
    x, labels = xor(160, seed=1)
    held = task(labels)
    found = search_mlp(x, held, 12, 0, 2)
    losses = {}
    for strength in STRENGTHS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mlp, "STRENGTHS", (strength,))
            losses[strength] = cross_entropy(search_mlp(x, held, 12, 0, 2).logits, labels).mean()
    tried = [s for s in STRENGTHS if s >= found.strength]
    assert min(losses[s] for s in tried) == losses[found.strength]


def test_neither_torch_nor_scikit_learn_is_needed() -> None:
    code = (
        "import sys, numpy as np\n"
        "from headstart.train.mlp import train_mlp\n"
        "x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)\n"
        "train_mlp(x, np.arange(20) % 2, 2, 4, 0.1, 0)\n"
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
