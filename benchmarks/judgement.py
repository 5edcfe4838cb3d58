"""Prediction sets, temperature, label errors, unlike images, learning curves, the next images.

    python benchmarks/judgement.py [PART ...]      parts: sets temperature labels unlike
                                              detectors curve next

Every part prints one table. Features are those of headstart's own pass, at most 1,500 images of a
set, drawn per class; groups (lesion, signer, copies) are kept whole everywhere.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable

import numpy as np
from foreign import foreign_images
from known import ACCURACY, MOST, WORK, Known, answers, held_out, load, said, strength_of
from scipy.special import logsumexp
from sklearn.covariance import LedoitWolf

from headstart.data.sources import read
from headstart.data.split import FOLDS, assign_folds, development_folds
from headstart.judge.calibration import fit_temperature, softmax
from headstart.judge.conformal import fit_sets, group_quantile, judge_sets
from headstart.judge.label_errors import label_doubt, suggest
from headstart.judge.learning_curve import learning_curve
from headstart.judge.next_images import propose
from headstart.judge.unlike import false_alarms, fit_unlike, strangeness, unlike_arrays
from headstart.parallel import one_blas_thread
from headstart.train.head import Space, _minimise, cross_entropy

DRAWS = 5
LEVELS = (0.8, 0.9, 0.95)
SETS = (
    "brain_tumor_mri", "chest_xray_covid", "cifar10", "clothing_small", "dogs_wolves", "eurosat",
    "ham10000", "isic2017_skin", "malaria", "plantvillage_apple", "sign_digits", "trashnet",
)  # fmt: skip


# -- the parts -----------------------------------------------------------------------------------


def sets() -> None:
    """Prediction sets: coverage over 20 splits, rules from held-out answers of the other images."""
    print("| set | stated | splits | coverage, out of fold | z | mean size | one class | classes | coverage, own calibration part |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for name in ("ham10000", "eurosat"):
        known = load(name)
        strength = strength_of(known.top, known)
        rows = np.array([one_split(known, strength, k) for k in range(20)])  # [splits, levels, 4]
        for level, column in zip(LEVELS, rows.transpose(1, 0, 2), strict=True):
            cover, size, single, own = column.T
            z = (cover.mean() - level) / (cover.std(ddof=1) / len(cover) ** 0.5)
            print(f"| {name} | {level} | 20 | {said(cover)} | {z:+.1f} | {size.mean():.2f} | {single.mean():.2f} | {len(known.classes)} | {said(own)} |", flush=True)  # fmt: skip


def one_split(known: Known, strength: float, k: int) -> list[tuple[float, ...]]:
    """Per level: coverage, mean size, share of single classes; coverage by an own calibration part."""
    y, g = known.labels, known.groups
    test = assign_folds(y, g, FOLDS, 100 + k) == 0
    dev = ~test
    folds = development_folds(y[dev], g[dev], FOLDS, k)
    scores = held_out(known.top[dev], y[dev], folds, strength)
    value = fit_temperature(scores, y[dev], folds).value
    p = softmax(answers(known.top, y, dev, test, strength), value)
    half = assign_folds(y[test], g[test], 2, k) == 0
    rows = []
    for level in LEVELS:
        rule = fit_sets(y[dev], softmax(scores, value), level, g[dev])
        seen = judge_sets(rule, y[test], p, g[test])
        own = fit_sets(y[test][half], p[half], level, g[test][half], out_of_fold=False)
        exact = judge_sets(own, y[test][~half], p[~half], g[test][~half])
        rows.append((seen.coverage.value, seen.size, seen.single, exact.coverage.value))
    return rows


def temperature() -> None:
    """Held-out log loss before and after the temperature, on fifths that took no part in it."""
    print("| set | reads | temperature | log loss before | after | gain | its standard error | verdict |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    fine = dict.fromkeys(("top", "every"), 0)
    for name in SETS:
        known = load(name)
        for view in fine:
            before, after, values = tempered(known, getattr(known, view))
            gain = before - after
            by_group = np.bincount(known.groups, gain - gain.mean())
            error = float((by_group**2).sum() ** 0.5 / len(gain))
            good = gain.mean() >= -error
            fine[view] += good
            word = "kept at 1" if not gain.any() else "better" if gain.mean() > error else "unchanged" if good else "WORSE"  # fmt: skip
            print(f"| {name} | {view} | {np.mean(values):.2f} | {before.mean():.4f} | {after.mean():.4f} | {gain.mean():+.4f} | {error:.4f} | {word} |", flush=True)  # fmt: skip
    told = ", ".join(f"{count} of {len(SETS)} ({view})" for view, count in fine.items())
    print(f"\nbetter or unchanged on {told} sets")


def tempered(known: Known, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Losses [N] without and with the temperature of the other four fifths, and these."""
    y, g = known.labels, known.groups
    strength = strength_of(x, known)
    outer = development_folds(y, g, FOLDS, 7)
    before, after, values = np.zeros(len(y)), np.zeros(len(y)), []
    for k in range(int(outer.max()) + 1):
        dev, test = outer != k, outer == k
        folds = development_folds(y[dev], g[dev], FOLDS, k)
        found = fit_temperature(held_out(x[dev], y[dev], folds, strength), y[dev], folds)
        logits = answers(x, y, dev, test, strength)
        before[test] = cross_entropy(logits, y[test])
        after[test] = cross_entropy(logits / found.value, y[test])
        values.append(found.value)
    return before, after, values


def labels() -> None:
    """Planted label errors in trashnet: the share found among the first tenth of the list."""
    known = load("trashnet", 10_000)
    y, c = known.labels, len(known.classes)
    folds = development_folds(y, known.groups, FOLDS, 1)
    strength = {"top": strength_of(known.top, known), "all": strength_of(known.every, known)}
    views = {"top": known.top, "all": known.every}
    clean = softmax(held_out(known.top, y, folds, strength["top"]))
    table = np.array([clean[y == k].mean(0) for k in range(c)])
    np.fill_diagonal(table, 0)
    confused = table.argmax(1)
    print("| planted | score | top | all stages | both, averaged |")
    print("|---|---|---|---|---|")
    for kind in ("uniform", "most confused"):
        found: dict[str, list[list[float]]] = {}
        for k in range(DRAWS):
            rng = np.random.default_rng(k)
            wrong = rng.permutation(len(y))[: len(y) // 20]
            given = y.copy()
            other = (y + rng.integers(1, c, len(y))) % c if kind == "uniform" else confused[y]
            given[wrong] = other[wrong]
            p = {n: softmax(held_out(x, given, folds, strength[n])) for n, x in views.items()}
            p["both"] = (p["top"] + p["all"]) / 2
            for score, rank in VARIANTS.items():
                hits = [float(np.isin(wrong, rank(given, q)[: len(y) // 10]).mean()) for q in p.values()]  # fmt: skip
                found.setdefault(score, []).append(hits)
        for score, hits in found.items():
            print(f"| {kind} | {score} | " + " | ".join(said(np.array(hits)[:, i]) for i in range(3)) + " |", flush=True)  # fmt: skip


def _margin(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    rows, others = np.arange(len(y)), p.copy()
    others[rows, y] = -np.inf
    return np.argsort(p[rows, y] - others.max(1), kind="stable")


def _confident(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Confident learning: the margin after every class's own mean confidence is taken off."""
    return _margin(y, p - np.array([p[y == k, k].mean() for k in range(p.shape[1])]))


def _shipped(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    names = [str(i) for i in range(len(y))]
    return np.array([s.index for s in suggest(names, y, [str(c) for c in range(p.shape[1])], p)])


VARIANTS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "the list as shipped": _shipped,
    "self-confidence": lambda y, p: np.argsort(-label_doubt(y, p)[0], kind="stable"),
    "normalised margin": _margin,
    "confident learning": _confident,
}


def unlike() -> None:
    """A model of clothes looks at other things: the share of images that it flags."""
    known = load("clothing_small")
    foreign = foreign_images(SETS)
    test = assign_folds(known.labels, known.groups, FOLDS, 3) == 0
    dev = ~test
    folds = development_folds(known.labels[dev], known.groups[dev], FOLDS, 4)
    print("| images | n | flagged, top features | flagged, all stages |")
    print("|---|---|---|---|")
    found, names = {}, ("top", "every")
    for name in names:
        x = getattr(known, name)
        found[name] = fit_unlike(x[dev], known.labels[dev], known.groups[dev], folds)
    held = [f"{100 * found[name].false_alarms:.1f} %" for name in names]
    print(f"| clothes, held out in folds | {dev.sum()} | {' | '.join(held)} |")
    alarms = [false_alarms(found[n], getattr(known, n)[test], known.groups[test]) for n in names]
    cells = [f"{100 * m.value:.1f} % ({100 * m.low:.1f} to {100 * m.high:.1f})" for m in alarms]
    print(f"| clothes, test part (false alarms) | {test.sum()} | {' | '.join(cells)} |")
    for label, folder in foreign.items():
        other = load(label, 300, None if folder is None else read(folder))
        shares = [(strangeness(found[n], getattr(other, n)) > 1).mean() for n in names]
        print(f"| {label} | {len(other.labels)} | {' | '.join(f'{100 * s:.1f} %' for s in shares)} |", flush=True)  # fmt: skip
    for name in names:
        x = getattr(known, name)
        size = sum(array.nbytes for array in unlike_arrays(found[name]).values())
        began = time.perf_counter()
        for i in range(200):
            strangeness(found[name], x[i : i + 1])
        took = (time.perf_counter() - began) / 200
        print(f"\n{name}: {size / 1e6:.2f} MB in the bundle, {1000 * took:.2f} ms per image")


def detectors() -> None:
    """Ways to see that an image is foreign: the share flagged of other sets, digits and noise."""
    drawn = foreign_images(SETS)
    others = {n: load(n, 200, None if f is None else read(f)) for n, f in drawn.items() if "turned" not in n}  # fmt: skip
    print("| trained on | way | false alarms, test part | flagged, mean of the others | worst |")
    print("|---|---|---|---|---|")
    for name in ("clothing_small", "trashnet", "ham10000"):
        known = load(name)
        y, g = known.labels, known.groups
        test = assign_folds(y, g, FOLDS, 3) == 0
        dev = np.flatnonzero(~test)
        folds = development_folds(y[dev], g[dev], FOLDS, 4)
        strength = strength_of(known.top, known)
        ways = WAYS | {"energy of the head": lambda x, y, s=strength: _energy(x, y, s)}
        for way, describe in ways.items():
            score = np.empty(len(dev))
            for k in np.unique(folds):
                learn = dev[folds != k]
                score[folds == k] = describe(known.top[learn], y[learn])(known.top[dev[folds == k]])
            limit = group_quantile(score, g[dev], 0.95)
            whole = describe(known.top[dev], y[dev])
            alarms = float((whole(known.top[test]) > limit).mean())
            found = [float((whole(o.top) > limit).mean()) for n, o in others.items() if n != name]
            print(f"| {name} | {way} | {100 * alarms:.1f} % | {100 * np.mean(found):.1f} % | {100 * min(found):.0f} % |", flush=True)  # fmt: skip


Score = Callable[[np.ndarray], np.ndarray]


def _nearest(k: int, standardised: bool = False) -> Callable[[np.ndarray, np.ndarray], Score]:
    def describe(x: np.ndarray, y: np.ndarray) -> Score:
        mean, spread = (x.mean(0), x.std(0) + 1e-3) if standardised else (0.0, 1.0)

        def unit(z: np.ndarray) -> np.ndarray:
            z = (z - mean) / spread
            return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)

        bank = unit(x[np.random.default_rng(0).permutation(len(x))[:400]])
        return lambda z: 1 - np.sort(unit(z) @ bank.T, axis=1)[:, -k]

    return describe


def _mahalanobis(x: np.ndarray, y: np.ndarray) -> Score:
    """Nearest class mean under one covariance, shrunk as Ledoit & Wolf do."""
    means = np.stack([x[y == c].mean(0) for c in np.unique(y)])
    inverse = LedoitWolf().fit(x - means[np.searchsorted(np.unique(y), y)]).precision_

    def score(z: np.ndarray) -> np.ndarray:
        far = z[:, None] - means
        return np.asarray(np.einsum("ncd,de,nce->nc", far, inverse, far, optimize=True).min(1))

    return score


def _residual(x: np.ndarray, y: np.ndarray) -> Score:
    """Distance from the 64 widest axes of standardised features."""
    mean, spread = x.mean(0), x.std(0) + 1e-3
    axes = np.linalg.svd((x - mean) / spread, full_matrices=False)[2][:64]

    def score(z: np.ndarray) -> np.ndarray:
        z = (z - mean) / spread
        return np.asarray((z**2).sum(1) - ((z @ axes.T) ** 2).sum(1))

    return score


def _energy(x: np.ndarray, y: np.ndarray, strength: float) -> Score:
    space, classes = Space(x), int(y.max()) + 1
    head = space.fold(_minimise(space.rotated, y, strength, space.random_start(classes, 0)))
    return lambda z: -np.asarray(logsumexp(head.logits(z.astype(np.float32)), axis=1))


WAYS: dict[str, Callable[[np.ndarray, np.ndarray], Score]] = {
    "third nearest, cosine (shipped)": _nearest(3),
    "nearest, cosine": _nearest(1),
    "tenth nearest, cosine": _nearest(10),
    "third nearest, standardised": _nearest(3, standardised=True),
    "Mahalanobis, shrunk": _mahalanobis,
    "residual of 64 axes": _residual,
}


def curve() -> None:
    """The gain that half of a set foretells for the whole of it, and what the whole shows."""
    print(
        "| set | images | back-test | foretold gain of doubling | seen, ± standard error | agree |"
    )
    print("|---|---|---|---|---|---|")
    for name in SETS:
        known = load(name, 3000 if name in ("trashnet", "eurosat") else MOST)
        y, g = known.labels, known.groups
        strength = strength_of(known.top, known)
        half = np.isin(assign_folds(y, g, 10, 3), range(5))
        found = learning_curve(known.top[half], y[half], g[half], ACCURACY, strength, 0)
        whole = learning_curve(known.top, y, g, ACCURACY, strength, 0)
        if not found.points:
            print(f"| {name} | {half.sum()} | {found.sentence} | | | |", flush=True)
            continue
        test = found.back_test
        assert test is not None
        told = f"{test.foretold:.3f} ({test.low:.3f} to {test.high:.3f}), seen {test.seen:.3f}"
        first, last = found.points[-1], whole.points[-1]
        seen, noise = last.score - first.score, (first.se**2 + last.se**2) ** 0.5
        cells = f"{100 * seen:+.1f} ± {100 * noise:.1f}"
        if found.gain is None:
            print(f"| {name} | {half.sum()} | {told} | not shown | {cells} | |", flush=True)
            continue
        # From 40 to 80 % of the images is a little more than from 50 to 100 %.
        scale = (first.n / half.sum()) ** -found.c
        gain, low, high = (scale * g for g in (found.gain, found.low, found.high))
        side = high - gain if seen > gain else gain - low
        inside = abs(seen - gain) <= (side**2 + (1.96 * noise) ** 2) ** 0.5
        print(f"| {name} | {half.sum()} | {told} | {100 * gain:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) | {cells} | {'yes' if inside else 'no'} |", flush=True)  # fmt: skip


def next_() -> None:
    """Five rounds of 50 labels, proposed or drawn at random, from 100 on; accuracy of 30 % held out."""
    print("| set | draws | after | random | proposed | proposed - random | smallest margins - random |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for name in ("eurosat", "trashnet"):
        known = load(name, 3000)
        strength = 10 * strength_of(known.top, known)  # of ten times as many images
        runs = np.array(
            [five_rounds(known, strength, k) for k in range(20)]
        )  # [draws, ways, rounds]
        for when, label in ((0, "1 round"), (4, "5 rounds"), (None, "mean of rounds")):
            at = runs[:, :, when] if when is not None else runs.mean(2)
            print(f"| {name} | {len(runs)} | {label} | {100 * at[:, 0].mean():.2f} | {100 * at[:, 1].mean():.2f} | {said(at[:, 1] - at[:, 0], 100, 2)} | {said(at[:, 2] - at[:, 0], 100, 2)} |", flush=True)  # fmt: skip


def five_rounds(known: Known, strength: float, k: int) -> list[list[float]]:
    """Accuracy after every round, for random choice, `propose` and the smallest margins."""
    x, y, rng = known.top, known.labels, np.random.default_rng(k)
    test = np.isin(assign_folds(y, known.groups, 10, k), range(3))
    pool = rng.permutation(np.flatnonzero(~test))
    scores = []
    for way in ("random", "proposed", "margin"):
        have, rest, seen = pool[:100], pool[100:], []
        for _ in range(5):
            if way == "random":
                picked = np.arange(50)
            else:
                p = softmax(answers(x, y, have, rest, strength))
                ordered = -np.sort(-p, axis=1)
                picked = np.argsort(ordered[:, 0] - ordered[:, 1])[:50]
                if way == "proposed":
                    picked = np.array([f.index for f in propose(p, x[rest], 50, x[have])])
            have, rest = np.concatenate([have, rest[picked]]), np.delete(rest, picked)
            found = answers(x, y, have, np.flatnonzero(test), strength)
            seen.append(float((found.argmax(1) == y[test]).mean()))
        scores.append(seen)
    return scores


PARTS = {"sets": sets, "temperature": temperature, "labels": labels, "unlike": unlike, "detectors": detectors, "curve": curve, "next": next_}  # fmt: skip


def main() -> None:
    WORK.mkdir()
    try:
        for name in sys.argv[1:] or PARTS:
            began = time.process_time()
            print(f"\n## {name}\n", flush=True)
            with one_blas_thread():
                PARTS[name]()
            print(f"\n{time.process_time() - began:.0f} s of one core", flush=True)
    finally:
        shutil.rmtree(WORK)


if __name__ == "__main__":
    main()
