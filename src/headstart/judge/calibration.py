"""Can the probabilities be believed, and one number, the temperature, that mends them.

Shapes: `N` images, `C` classes, `B` bins. Labels are integers [N], logits and probabilities
floats [N, C]; the confidence of an image is its largest probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from headstart.errors import ArgumentError
from headstart.plan.compare import careful_se, students
from headstart.plan.criterion import Criterion, mean_value

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 15  # Guo et al. 2017, section 2
COLDEST, HOTTEST = 0.05, 20.0
SURE = 2.0
"""standard errors by which a temperature must gain; of few groups as many more as Student's
distribution asks for: of calibrated answers for 2, 3 and 5 groups, alike in part, twice the groups'
standard error took one for 20, 14 and 10 of 100"""
ROUNDING = 1e-3  # what float16 and CSV files may do to a sum of probabilities


@dataclass(frozen=True, slots=True)
class Temperature:
    """The divisor of the logits, and why it is what it is, in a sentence.

    `nll_before` is the mean negative log-likelihood at 1, `nll_after` the one at the temperatures
    that were fitted on the other folds; both are equal when the temperature was kept at 1.
    """

    value: float
    nll_before: float
    nll_after: float
    kept_at_one: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Reliability:
    """Per bin, from the least to the most confident: mean confidence, accuracy, images."""

    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    count: tuple[int, ...]


def check_inputs(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Ints, Floats]:
    """Labels as int64 [N] and probabilities as float64 [N, C].

    Raises:
        ArgumentError: shapes that do not fit, no image, fewer than two classes, a label that is
            no column, or probabilities that are negative or do not sum to 1 (NaN included).

    >>> check_inputs([0, 1], [[0.9, 0.1], [0.2, 0.8]])[0].tolist()
    [0, 1]
    """
    truth, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] < 2 or truth.shape != p.shape[:1] or not len(truth):
        raise ArgumentError(
            "Labels and probabilities do not fit together",
            received=f"labels {list(truth.shape)}, probabilities {list(p.shape)}",
            do="Pass labels [N] and probabilities [N, C] with at least one image and two classes.",
        )
    whole = truth.dtype.kind in "iu"
    if not whole or truth.min() < 0 or truth.max() >= p.shape[1]:
        seen = f"{truth.min()} to {truth.max()}" if whole else f"labels of type {truth.dtype}"
        raise ArgumentError(
            "A label is not the number of a class",
            received=f"{seen}, {p.shape[1]} classes",
            do="Pass integer labels from 0 to C - 1.",
        )
    # min and sum carry NaN along, and NaN fails both comparisons.
    off = float(np.abs(p.sum(1) - 1).max())
    if not (p.min() >= 0 and off <= ROUNDING):
        raise ArgumentError(
            "Probabilities must be at least 0 and sum to 1 per image",
            received=f"a smallest value of {p.min()}, a sum that is off by {off}",
            do="Pass probabilities, not logits, and look for NaN in the network's output.",
        )
    return truth.astype(np.int64), p


def softmax(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Probabilities of logits / temperature over the last axis, float64, without overflow.

    Raises:
        ArgumentError: the temperature is not positive.

    >>> softmax([[1000.0, 1000.0]]).tolist()
    [[0.5, 0.5]]
    """
    if not temperature > 0:
        raise ArgumentError("A temperature must be positive", received=temperature)
    scaled = np.asarray(logits, dtype=np.float64)
    powers = np.exp((scaled - scaled.max(axis=-1, keepdims=True)) / temperature)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def fit_temperature(
    logits: ArrayLike, labels: ArrayLike, folds: ArrayLike, groups: ArrayLike | None = None
) -> Temperature:
    """One temperature for all classes (Guo et al. 2017, section 4.2), if it is worth having.

    The temperature minimises the negative log-likelihood of all N images over log T in
    [log 0.05, log 20]. It is taken when temperatures fitted on the other folds lower the loss of
    each fold's images by more than two standard errors of the paired mean difference, and more of
    few groups (SURE); else T is 1.
    (With one it made 3 of 12 and 1 of 12 measured sets worse on unseen images, with two 1 and none.)
    Without a mistake among the images the likelihood rises forever as T falls, so there, and when
    T meets its lower bound, it stays 1 as well.

    Args:
        logits: floats [N, C], out of fold: image i was not trained on by what scored it.
        labels: integers [N].
        folds: integers [N], the fold of each image.
        groups: integers [N], images of one group are one draw; None: every image is one.

    Raises:
        ArgumentError: shapes that do not fit, labels that are no column, logits not finite.

    >>> calm = fit_temperature([[2.0, 0.0], [0.0, 2.0]] * 4, [0, 1] * 4, [0, 0, 1, 1] * 2)
    >>> calm.value, calm.kept_at_one
    (1.0, True)
    """
    scores = np.asarray(logits, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise ArgumentError("Logits must be finite", do="Look for NaN in the network's output.")
    wide = scores.ndim == 2 and scores.shape[1] > 1
    truth, p = check_inputs(labels, softmax(scores) if wide else scores)
    fold = np.asarray(folds)
    group = np.arange(len(truth)) if groups is None else np.asarray(groups)
    for name, given in (("fold", fold), ("group", group)):
        if given.shape != truth.shape:
            shape = f"{name}s {list(given.shape)}"
            raise ArgumentError(f"Every image needs a {name}", received=shape)
    scores = scores - scores.max(axis=1, keepdims=True)  # now no exponential overflows
    before = _losses(scores, truth, 1.0)
    names = np.unique(fold)
    if len(names) < 2:
        why = "one fold only, so no temperature can be checked on other images."
        return _kept(before, f"Its confidence is left as it is: {why}")
    if len(np.unique(group)) == 1:
        why = "all images are of one group, which does not show how others are."
        return _kept(before, f"Its confidence is left as it is: {why}")
    value = _minimum(scores, truth)
    if bool((p.argmax(1) == truth).all()) or value < COLDEST * 1.01:
        why = "too few mistakes to say how sure it may be."
        return _kept(before, f"Its confidence is left as it is: {why}")
    after = np.empty_like(before)
    for name in names:
        held = fold == name
        after[held] = _losses(scores[held], truth[held], _minimum(scores[~held], truth[~held]))
    gain = before - after
    error, least = _noise(gain, group)
    change = f"{abs(gain.mean()):.4f} {'lower' if gain.mean() > 0 else 'higher'}"
    verdict = f"(cross-fitted loss {change}, standard error {error:.4f})"
    if not gain.mean() > least:
        why = f"a temperature of {value:.3f} would bring nothing measurable {verdict}."
        return _kept(before, f"Its confidence needs no correction: {why}")
    was = "too sure" if value > 1 else "not sure enough"
    text = f"It was {was} of itself; a temperature of {value:.3f} corrects that {verdict}."
    return Temperature(value, float(before.mean()), float(after.mean()), False, text)


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> Reliability:
    """Accuracy against confidence in bins of equal numbers of images.

    Images of equal confidence share a bin, so the order of the images does not matter and there
    may be fewer bins than asked for.

    Raises:
        ArgumentError: see `check_inputs`, or fewer than one bin.

    >>> reliability([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], bins=3).accuracy
    (0.0, 1.0, 1.0)
    """
    truth, p = check_inputs(labels, probabilities)
    if bins < 1:
        raise ArgumentError("There must be at least one bin", received=bins)
    order = np.argsort(p.max(1), kind="stable")
    confidence = p.max(1)[order]
    right = (p.argmax(1) == truth)[order]
    first = np.searchsorted(confidence, confidence, side="left")
    _, rows, count = np.unique(
        first * min(bins, len(truth)) // len(truth), return_inverse=True, return_counts=True
    )
    mean = np.bincount(rows, confidence) / count
    share = np.bincount(rows, right) / count
    return Reliability(tuple(mean.tolist()), tuple(share.tolist()), tuple(count.tolist()))


def calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS, debiased: bool = False
) -> float:
    """Expected calibration error, or the debiased root mean square one.

    The expected one is the mean of |accuracy - confidence| over the bins of `reliability`,
    weighted by images (Naeini et al. 2015; equal masses: Nixon et al. 2019). Small samples
    inflate it. The debiased one subtracts accuracy (1 - accuracy) / (n - 1) from the squared gap
    of each bin before the mean (Kumar et al. 2019, section 5), and is 0 where that is negative.

    Raises:
        ArgumentError: see `reliability`.

    >>> round(calibration_error([0, 1], [[0.9, 0.1], [0.2, 0.8]]), 3)
    0.15
    """
    found = reliability(labels, probabilities, bins)
    accuracy, count = np.array(found.accuracy), np.array(found.count)
    gap = np.abs(accuracy - np.array(found.confidence))
    if not debiased:
        return float(np.average(gap, weights=count))
    chance = np.where(count > 1, accuracy * (1 - accuracy) / np.maximum(count - 1, 1), 0.0)
    return float(np.sqrt(max(0.0, float(np.average(gap**2 - chance, weights=count)))))


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean squared distance of the probabilities from the truth, summed over classes, 0 to 2.

    Brier's own definition (1950); with two classes it is twice the one-column score.

    Raises:
        ArgumentError: see `check_inputs`.

    >>> brier([0, 1], [[1.0, 0.0], [0.5, 0.5]])
    0.25
    """
    truth, p = check_inputs(labels, probabilities)
    own = p[np.arange(len(truth)), truth]
    # ||p - e||^2 = ||p||^2 - 2 p_own + 1, without a second [N, C] array
    return float(np.mean(np.einsum("nc,nc->n", p, p) - 2 * own + 1))


def predicted_loss_ratio(p: Floats, mistakes: int) -> float:
    """Variance over mean of the log loss that probabilities [N, C] themselves predict.

    The probabilities are first tempered, each as a coin between its top class and the others,
    until they expect at least as many mistakes as were made (Laplace's rule: k + 1 of n + 2). It
    says how far the loss of another N such images may stray when the few mistakes that decide it
    did not happen to be among those seen. Probabilities must be above 0.

    >>> round(predicted_loss_ratio(np.full((20, 2), [0.9, 0.1]), mistakes=2), 2)
    1.4
    """
    n = len(p)
    top = p.argmax(1)
    others = p.copy()
    others[np.arange(n), top] = 0
    error = others.sum(1)
    surprise = -np.log(p)
    right = surprise[np.arange(n), top]
    wrong = np.einsum("nc,nc->n", others, surprise) / error
    surprise *= surprise
    wrong_squared = np.einsum("nc,nc->n", others, surprise) / error
    odds = np.log(error) + right
    wanted = (mistakes + 1) / (n + 2)
    cold, hot = 1.0, 0.0
    if expit(odds).mean() < wanted:
        for _ in range(30):  # bisection: the expected mistakes fall as the exponent grows
            middle = (cold + hot) / 2
            cold, hot = (middle, hot) if expit(middle * odds).mean() < wanted else (cold, middle)
    chance = expit(cold * odds)
    mean = ((1 - chance) * right + chance * wrong).mean()
    return float((((1 - chance) * right**2 + chance * wrong_squared).mean() - mean**2) / mean)


def _losses(logits: Floats, labels: Ints, temperature: float) -> Floats:
    """Negative log-likelihood of each image [N]; the logits have a largest value of 0."""
    own = logits[np.arange(len(labels)), labels]
    sums = np.exp(logits / temperature).sum(axis=1)
    return np.asarray(np.log(sums) - own / temperature, dtype=np.float64)


def _minimum(logits: Floats, labels: Ints) -> float:
    """The temperature of least mean loss; the loss is convex in 1 / T, so it has one valley."""
    # Imported here because prediction needs softmax from this file, and this takes a third of a second.
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log_t: float(_losses(logits, labels, float(np.exp(log_t))).mean()),
        bounds=(np.log(COLDEST), np.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(np.exp(found.x))


def _noise(gain: Floats, group: Ints) -> tuple[float, float]:
    """Standard error of the mean gain, never below that of single images, and what it must exceed."""
    found = mean_value(Criterion("log_loss", "log_loss"), gain, np.zeros(len(gain), np.int64))
    error, draws = careful_se(found, group), len(np.unique(group))
    return error, error * (SURE if draws == len(gain) else students(SURE, draws))


def _kept(losses: Floats, reason: str) -> Temperature:
    mean = float(losses.mean())
    return Temperature(1.0, mean, mean, True, reason)
