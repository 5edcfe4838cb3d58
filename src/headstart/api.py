"""The same verbs from Python, with the same names and defaults as on the command line.

import headstart

result = headstart.fit("my_photos", budget=0)
print(result.score("accuracy"))
for answer in result.model.predict("new_photos"):
    print(answer.path, answer.predicted, answer.confidence)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import HeadstartError
from headstart.notebook import compared_html, plan_html, scores_html, sentence
from headstart.run import read_json
from headstart.settings import DEFAULT_BACKBONE, compare_settings, fit_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from headstart.explaining import Explained
    from headstart.proposing import NextImages
    from headstart.ship.predict import Model


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run: where it lies and what it stores."""

    folder: Path

    @property
    def plan(self) -> dict[str, Any]:
        """plan.json: case, numbers, reasons, candidates."""
        return read_json(self.folder / "plan.json")

    @property
    def evaluation(self) -> dict[str, Any]:
        """evaluation.json: every score with its interval, n and method."""
        return read_json(self.folder / "evaluation.json")

    @property
    def model(self) -> Model:
        """The trained model, ready to answer."""
        return load(self.folder)

    def score(self, name: str) -> tuple[float | None, float | None, float | None]:
        """Value, low and high end of the 95 % interval of a score on the test part.

        Raises:
            KeyError: no such score; the known ones are named.
        """
        return _score(self.evaluation, name)

    def _repr_html_(self) -> str:
        shown = plan_html(_stored(self.folder / "plan.json"))
        shown += scores_html(_stored(self.folder / "evaluation.json"))
        return shown + sentence(f"stored: {self.folder}")


def _stored(file: Path) -> dict[str, Any]:
    """What a file of a run holds; {} where it is missing: a notebook must be able to show a failed run."""
    try:
        return read_json(file)
    except HeadstartError:
        return {}


def _score(
    evaluation: dict[str, Any], name: str
) -> tuple[float | None, float | None, float | None]:
    found = {m["name"]: (m["value"], m["low"], m["high"]) for m in evaluation["metrics"]}
    if name not in found:
        raise KeyError(f"no score {name!r}; there are {', '.join(found)}")
    return found[name]


def fit(
    data: str | Path | None = None,
    *,
    table: str | Path | None = None,
    group: str | None = None,
    by: Sequence[str] | str | None = None,
    out: str | Path | None = None,
    test: str | Path | None = None,
    metric: str = "auto",
    case: int | None = None,
    cut: str | None = None,
    from_scratch: bool = False,
    backbone: str = DEFAULT_BACKBONE,
    weights: str | Path | None = None,
    size: int | None = None,
    fit_image: str | None = None,
    head: str = "linear",
    epochs: int | None = None,
    augment: str = "auto",
    budget: float | None = None,
    prevalence: Mapping[str, float] | str | None = None,
    relabel: str | Path | None = None,
    small_below: int = 1_000,
    large_above: int = 10_000,
    refit_all: bool = False,
    seed: int = 0,
    resume: bool = False,
    report: bool = True,
    tensorboard: bool = False,
    device: str = "auto",
) -> Result:
    """From a folder of images to a verified model, its evaluation and its report.

    See `headstart fit --help` for every argument.

    Raises:
        HeadstartError: with what is wrong, where, what was received, what to do next.
    """
    from headstart import pipeline

    values = {key: value for key, value in locals().items() if key != "pipeline"}
    return Result(pipeline.fit(fit_settings(values)).folder)


def make_plan(
    data: str | Path | None = None,
    *,
    table: str | Path | None = None,
    group: str | None = None,
    out: str | Path | None = None,
    test: str | Path | None = None,
    metric: str = "auto",
    backbone: str = DEFAULT_BACKBONE,
    weights: str | Path | None = None,
    size: int | None = None,
    fit_image: str | None = None,
    small_below: int = 1_000,
    large_above: int = 10_000,
    seed: int = 0,
    resume: bool = False,
    device: str = "auto",
) -> Decided:
    """Measure and decide only, as `headstart plan`; returns what plan.json holds.

    (`headstart.plan` is the package of the step itself, and so cannot be this function.)

    Raises:
        HeadstartError: with what is wrong, where, what was received, what to do next.
    """
    from headstart import pipeline

    values = {key: value for key, value in locals().items() if key != "pipeline"}
    return Decided(read_json(pipeline.plan(fit_settings(values, "plan")).folder / "plan.json"))


class Decided(dict[str, Any]):
    """plan.json as `make_plan` returns it: a dictionary that a notebook shows as a table."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return plan_html(self)


@dataclass(frozen=True, slots=True)
class Compared:
    """A finished comparison: where it lies and what it stores."""

    folder: Path

    @property
    def stored(self) -> dict[str, Any]:
        """compare.json: the table, every pair, what pre-training saves."""
        return read_json(self.folder / "compare.json")

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """One row per strategy: score with its interval, gap to the training score, seconds."""
        return {row["strategy"]: row for row in self.stored["rows"]}

    @property
    def sentence(self) -> str:
        """Which differences are real."""
        return str(self.stored["sentence"])

    def _repr_html_(self) -> str:
        return compared_html(_stored(self.folder / "compare.json"))


def compare(
    data: str | Path | None = None,
    *,
    table: str | Path | None = None,
    group: str | None = None,
    out: str | Path | None = None,
    test: str | Path | None = None,
    metric: str = "auto",
    backbone: str = DEFAULT_BACKBONE,
    weights: str | Path | None = None,
    size: int | None = None,
    fit_image: str | None = None,
    epochs: int | None = None,
    augment: str = "auto",
    folds: int = 1,
    seed: int = 0,
    resume: bool = False,
    device: str = "auto",
) -> Compared:
    """All four cases, all stages and partial tuning on the same held-out images.

    See `headstart compare --help` for every argument.

    Raises:
        HeadstartError: with what is wrong, where, what was received, what to do next.
    """
    values = dict(locals())
    from headstart import comparing

    return Compared(comparing.compare(compare_settings(values)).folder)


def load(path: str | Path) -> Model:
    """Load a trained model from a run folder or a model folder.

    Raises:
        BundleError: not a model, damaged, or of an unknown version.
    """
    from headstart.ship.predict import load as load_model

    return load_model(path)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A model judged on new images: where that lies and what it stores."""

    folder: Path

    @property
    def evaluation(self) -> dict[str, Any]:
        """evaluation.json: every score with its interval, n and method; curves, thresholds, parts."""
        return read_json(self.folder / "evaluation.json")

    def score(self, name: str) -> tuple[float | None, float | None, float | None]:
        """Value, low and high end of the 95 % interval of a score.

        Raises:
            KeyError: no such score; the known ones are named.
        """
        return _score(self.evaluation, name)

    def _repr_html_(self) -> str:
        shown = scores_html(_stored(self.folder / "evaluation.json"))
        return shown + sentence(f"stored: {self.folder}")


def evaluate(
    model: str | Path,
    data: str | Path | None = None,
    *,
    table: str | Path | None = None,
    group: str | None = None,
    out: str | Path | None = None,
    by: Sequence[str] = (),
    readers: str | Path | None = None,
    prevalence: Mapping[str, float] | str | None = None,
    together: Mapping[str, Sequence[str]] | Sequence[str] = (),
) -> Evaluated:
    """Judge a model on new labelled images, as `headstart evaluate`.

    Args:
        model: run folder or model folder. by: columns of the table whose parts are compared.
        readers: CSV of what people said of the same images. together: classes that count as one, by a
            name for them. See `headstart evaluate --help`.

    Raises:
        HeadstartError: with what is wrong, where, what was received, what to do next.
    """
    from headstart import evaluating

    return Evaluated(
        evaluating.evaluate(
            model, data, table=table, group=group, out=out, by=by, readers=readers,
            prevalence=prevalence, together=together,
        )
    )  # fmt: skip


def next_images(
    model: str | Path,
    images: str | Path | Iterable[str | Path],
    n: int = 50,
    out: str | Path | None = None,
) -> NextImages:
    """The unlabelled images worth labelling next, as `headstart next`.

    Args:
        model: run folder or model folder. images: files and folders. out: a CSV file to write.

    Raises:
        HeadstartError: with what is wrong, where, what was received, what to do next.
    """
    from headstart import proposing

    return proposing.next_images(model, images, n, out)


def explain_images(
    model: str | Path,
    images: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    stage: str | None = None,
    target: str | None = None,
    method: str = "gradcam",
) -> Explained:
    """Show which part of each picture speaks for a class, as `headstart explain`.

    (`headstart.explain` is the package of the step itself, and so cannot be this function.)

    Args:
        model: run folder or model folder. images: files and folders. out: folder to write to.
        stage: where Grad-CAM reads; default: the last stage with positions.
        target: the class to explain; default: the model's own answer for each picture.
        method: "gradcam" or "saliency".

    Raises:
        HeadstartError: with what is wrong, where, what was received, what to do next.
    """
    from headstart.explaining import explain

    return explain(model, images, out, stage=stage, target=target, method=method)


def show_filters(
    backbone: str,
    images: str | Path | None,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    size: int | None = None,
    seed: int = 0,
) -> Path:
    """Show what the filters of each stage look for, as `headstart filters`; returns the page.

    Args:
        images: a folder; None: pictures are made up that excite the filters.

    Raises:
        HeadstartError: with what is wrong, where, what was received, what to do next.
    """
    from headstart.explain.filters import show_filters as show

    return show(backbone, images, out, weights=weights, size_px=size, seed=seed)
