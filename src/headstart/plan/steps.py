"""Minutes become steps, once: which ways to train the network fit the time, and on how many folds.

The clock is read and the speeds are measured before this; nothing later looks at a clock, so a run
that is stopped and goes on does what was planned.

n images to learn from, v images of a fold that verifies, J folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from headstart.plan.decide import Strategy

USED = 0.9
"""of the time that is left is planned with; predicted times are right to about a tenth"""
MIXTURES = 5
"""sets of weights that are tried on the fold when training has ended"""
NO_REFIT_FROM = 10_000
"""images to learn from; with so many, learning once more from a fifth more of them costs as much as
everything before and gains next to nothing: what was verified is shipped"""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to train the network."""

    name: str
    strategy: Strategy
    size_px: int
    through: str | None
    """last frozen stage of partial tuning"""
    epochs: int
    rate: float | None = None
    """base rate; None: the recipe's first"""

    def at(self, rate: float) -> Way:
        """The same way at another base rate.

        >>> Way("finetune", "finetune", 160, None, 12).at(0.001).name
        'finetune@rate0.001'
        """
        return replace(self, name=f"{self.name}@rate{rate:g}", rate=rate)


@dataclass(frozen=True, slots=True)
class Speed:
    """Images per second of one way on this machine, as measured."""

    train_img_s: float
    answer_img_s: float
    """of validation"""
    freeze_img_s: float | None = None
    """of computing the frozen part's activations; None: nothing is cached"""


@dataclass(frozen=True, slots=True)
class Offer:
    """A way to train and what it costs; `least_epochs` is the shortest schedule that can be judged."""

    way: Way
    speed: Speed
    least_epochs: int
    views: int = 0
    """views whose activations are kept"""


@dataclass(frozen=True, slots=True)
class Images:
    """How many there are of which."""

    learn: int
    """to learn from, all folds together"""
    folds: tuple[int, ...]
    """sizes of the folds that may verify, the best first"""
    held_out: bool
    """whether a test part was held out; else verifying folds are also the estimate"""
    judges: int = 1
    """how many of the folds it takes to judge a way"""

    @property
    def refit(self) -> bool:
        """Whether the winner learns once more, from all of them."""
        return self.learn < NO_REFIT_FROM


@dataclass(frozen=True, slots=True)
class Planned:
    """A way that will be trained."""

    way: Way
    folds: int
    """how many of the folds verify it"""
    verify_s: float
    refit_s: float


@dataclass(frozen=True, slots=True)
class Steps:
    """What will be trained, cheapest first; predicted times; what is left out and why."""

    planned: tuple[Planned, ...]
    refit: bool
    left_s: float
    beside_s: float
    """of testing augmentations, exporting networks and looking at every image with them"""
    left_out: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Everything together, the costliest refit assumed."""
        verify = sum(one.verify_s for one in self.planned)
        refit = max((one.refit_s for one in self.planned), default=0.0) if self.refit else 0.0
        return verify + refit + self.beside_s if self.planned else 0.0


def plan_steps(offers: Sequence[Offer], images: Images, left_s: float, beside_s: float) -> Steps:
    """The costliest way that fits, verified and learned once more; then what else fits beside it.

    Where no way fits with its whole schedule, the one that keeps the largest share of it is chosen:
    half a schedule costs 2 to 3 points (docs/log.md). What is left over goes to further folds of that
    way where the folds are also the estimate, and then to the next cheaper ways, which are verified on
    the same folds.

    Args:
        left_s: seconds that are left when training could begin. beside_s: needed beside training.

    >>> fast, slow = Speed(100.0, 300.0), Speed(50.0, 150.0)
    >>> small = Offer(Way("small", "finetune", 160, None, 12), fast, 8)
    >>> large = Offer(Way("large", "finetune", 224, None, 12), slow, 8)
    >>> images = Images(800, (200,), held_out=True)
    >>> [one.way.name for one in plan_steps([small, large], images, 200.0, 20.0).planned]
    ['small']
    >>> [one.way.name for one in plan_steps([small, large], images, 600.0, 20.0).planned]
    ['small', 'large']
    """
    room = USED * left_s - beside_s
    costed = sorted((_costed(o, images, room) for o in offers), key=lambda one: _whole(one, images))
    fitting = [one for one in costed if _whole(one, images) <= room]
    left_out = [
        f"{one.way.name} is not tried: it would take about {_minutes(_whole(one, images) + beside_s)}, "
        f"and {_minutes(max(0.0, left_s))} are left."
        for one in costed
        if one not in fitting
    ]
    if not fitting:
        return Steps((), images.refit, left_s, beside_s, tuple(left_out))
    own = {offer.way.name: offer.way.epochs for offer in offers}
    main = max(fitting, key=lambda one: (one.way.epochs / own[one.way.name], _whole(one, images)))
    others = [one for one in fitting if one is not main]
    room -= _whole(main, images)
    if not images.held_out:
        more = min(
            len(images.folds) - main.folds, max(0, int(room // (main.verify_s / main.folds)))
        )
        room -= more * main.verify_s / main.folds
        main = _on_folds(main, main.folds + more)
    chosen = [main]
    for other in (_on_folds(one, main.folds) for one in reversed(others)):
        if other.verify_s <= room and other.refit_s <= main.refit_s:
            chosen.insert(0, other)
            room -= other.verify_s
        else:
            left_out.append(
                f"{other.way.name} is not tried beside {main.way.name}: its "
                f"{_minutes(other.verify_s)} do not fit any more."
            )
    return Steps(tuple(chosen), images.refit, left_s, beside_s, tuple(left_out))


def training_s(offer: Offer, learn: int, valid: int) -> float:
    """Predicted seconds of one training from `learn` images, validated on `valid`."""
    speed, epochs = offer.speed, offer.way.epochs
    found = epochs * learn / speed.train_img_s
    if valid:
        found += (epochs + MIXTURES) * valid / speed.answer_img_s
    if speed.freeze_img_s is not None:
        found += (min(offer.views, epochs) * learn + valid) / speed.freeze_img_s
    return found


def steps_json(steps: Steps) -> dict[str, Any]:
    """What plan.json tells of the plan of steps."""
    return {
        "left_s": round(steps.left_s, 1),
        "seconds": round(steps.seconds, 1),
        "beside_s": round(steps.beside_s, 1),
        "refit": steps.refit,
        "planned": [asdict(one) for one in steps.planned],
        "left_out": list(steps.left_out),
    }


def _costed(offer: Offer, images: Images, room: float) -> Planned:
    """With its own schedule, or with the longest that fits; with its own, when not even the
    shortest does."""
    whole = _planned(offer, images)
    for epochs in range(offer.way.epochs, min(offer.least_epochs, offer.way.epochs) - 1, -1):
        found = _planned(replace(offer, way=replace(offer.way, epochs=epochs)), images)
        if _whole(found, images) <= room:
            return found
    return whole


def _planned(offer: Offer, images: Images) -> Planned:
    fold, folds = images.folds[0], images.judges
    verify = folds * training_s(offer, images.learn - fold, fold)
    return Planned(offer.way, folds, verify, training_s(offer, images.learn, 0))


def _on_folds(one: Planned, folds: int) -> Planned:
    return replace(one, folds=folds, verify_s=folds * one.verify_s / one.folds)


def _whole(one: Planned, images: Images) -> float:
    return one.verify_s + (one.refit_s if images.refit else 0.0)


def _minutes(seconds: float) -> str:
    """
    >>> _minutes(40.0), _minutes(100.0)
    ('40 s', '1.7 min')
    """
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.1f} min"
