"""People's points beside the model's curve: both tables, paired where the images are the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from headstart.errors import ArgumentError, DataError
from headstart.files import strict
from headstart.judge.metrics import Metric, wilson
from headstart.judge.operating import (
    OperatingPoint,
    Scores,
    Target,
    cross_fitted_calls,
    operating_point,
)
from headstart.judge.proportions import difference, paired, share, stretched
from headstart.judge.reader_table import Answered, Rated, read_readers
from headstart.judge.readers import ReaderStudy, reader_study, to_json

CLASSES = ("benign", "malignant", "other")
PATHS = [f"skin/{i}.jpg" for i in range(100)]
INSIDE = np.arange(100) < 40


def at(threshold: float) -> OperatingPoint:
    nothing = Metric("sensitivity", None, None, None, 0, "")
    return OperatingPoint(
        "malignant", Target("sensitivity", 0.9), threshold, "other images", False, nothing, nothing,
        None, None, None, 29, True, "",
    )  # fmt: skip


def scores(seed: int = 0, gap: float = 1.5) -> Scores:
    rng = np.random.default_rng(seed)
    return Scores(rng.normal(size=100) + gap * INSIDE, INSIDE)


def says(reader: str, called: NDArray[np.bool_], rows: range = range(100)) -> list[tuple]:
    return [(reader, PATHS[i], bool(called[i])) for i in rows]


def study(rows: list[tuple], judged: Scores | None = None) -> ReaderStudy:
    return reader_study(Answered(tuple(rows)), judged or scores(), PATHS, at(0.7))


def write(folder: Path, text: str) -> Path:
    file = folder / "readers.csv"
    file.write_text(text, encoding="utf-8")
    return file


def read(file: Path) -> Answered | tuple[Rated, ...]:
    return read_readers(file, CLASSES, [1], "melanoma")


def test_reads_answers_by_class_and_by_what_is_called(tmp_path: Path) -> None:
    text = "reader;path;answer\nA;./a.jpg;malignant\nA;b.jpg;other\nB;a.jpg;melanoma\nB;b.jpg;not melanoma\n"
    found = read(write(tmp_path, text))
    assert found == Answered(
        (("A", "a.jpg", True), ("A", "b.jpg", False), ("B", "a.jpg", True), ("B", "b.jpg", False))
    )


def test_reads_rates(tmp_path: Path) -> None:
    text = "reader,sensitivity,specificity,n_pos,n_neg\nA,0.9,0.75,65,70\n"
    assert read(write(tmp_path, text)) == (Rated("A", 0.9, 0.75, 65, 70),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reader,image,answer\nA,a.jpg,benign\n", "neither form"),
        ("reader,path,answer\nA,a.jpg,malignat\nA,b.jpg,xx\n", "2 answers .* no class.*A,a.jpg,malignat | A,b.jpg,xx"),
        ("reader,path,answer\nA,a.jpg,benign\nA,./a.jpg,other\n", "more than one row"),
        ("reader,path,answer\n,a.jpg,benign\n", "name no reader"),
        ("reader,path,answer\nA,a.jpg\n", "Line 2 of the table has 2 cells"),
        ("reader,path,answer\n", "no rows"),
        ("reader,sensitivity,specificity,n_pos,n_neg\nA,95,0.7,65,70\n", "no rates"),
        ("reader,sensitivity,specificity,n_pos,n_neg\nA,nan,0.7,65,70\n", "no rates"),
        ("reader,sensitivity,specificity,n_pos,n_neg\nA,0.9,0.7,0,70\n", "no rates"),
        ("reader,sensitivity,specificity,n_pos,n_neg\nA,0.9,0.7,6.5,70\n", "no rates"),
        ("reader,sensitivity,specificity,n_pos,n_neg\nA,0.9,0.7,6,7\nA,0.8,0.7,6,7\n", "more than one row"),
    ],
)  # fmt: skip
def test_clear_errors_that_show_rows(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(write(tmp_path, text))
    assert "readers.csv" in str(caught.value)


def test_three_rows_are_shown_and_the_nearest_class(tmp_path: Path) -> None:
    rows = "".join(f"A,{i}.jpg,malignat\n" for i in range(9))
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, f"reader,path,answer\n{rows}"))
    assert str(caught.value).count("malignat,") == 0 and str(caught.value).count(".jpg") == 3
    assert "Did you mean malignant" in str(caught.value)


def test_points_are_counts_with_wilsons_interval() -> None:
    called = np.r_[np.ones(30), np.zeros(10), np.ones(6), np.zeros(54)].astype(bool)
    reader = study(says("A", called)).readers[0]
    assert (reader.sensitivity.value, reader.specificity.value) == (0.75, 0.9)
    assert (reader.sensitivity.low, reader.sensitivity.high) == pytest.approx(wilson(30, 40))
    assert (reader.specificity.low, reader.specificity.high) == pytest.approx(wilson(54, 60))


def test_answers_are_paired_by_path_and_not_by_order() -> None:
    rng = np.random.default_rng(1)
    called = rng.random(100) < 0.5
    rows = says("A", called)
    shuffled = [rows[i] for i in rng.permutation(100)]
    assert study(shuffled).readers == study(rows).readers
    lead = study(rows).readers[0].ahead_sensitivity
    model = scores().score >= 0.7
    expected = paired("", model[INSIDE], called[INSIDE])
    assert (lead.value, lead.low, lead.high) == (expected.value, expected.low, expected.high)


def test_a_reader_who_answers_like_the_model_is_level() -> None:
    reader = study(says("A", scores().score >= 0.7)).readers[0]
    for lead in (reader.ahead_sensitivity, reader.ahead_specificity):
        assert lead.value == 0 and lead.low is not None and lead.high is not None
        assert lead.low < 0 < lead.high


def test_a_reader_of_some_images_is_compared_on_those() -> None:
    called = np.random.default_rng(2).random(100) < 0.5
    reader = study(says("A", called, range(20, 60))).readers[0]
    assert (reader.sensitivity.n, reader.specificity.n) == (20, 20)
    assert (reader.ahead_sensitivity.n, reader.ahead_specificity.n) == (20, 20)
    only_positives = study(says("A", called, range(20))).readers[0]
    assert only_positives.specificity.value is None and only_positives.below_curve is None


def test_rates_are_compared_unpaired() -> None:
    found = reader_study((Rated("A", 0.8, 0.7, 65, 70),), scores(), PATHS, at(0.7))
    model = share("", (scores().score >= 0.7)[INSIDE])
    expected = difference("", model, Metric("", 0.8, *wilson(52, 65), 65, ""))
    lead = found.readers[0].ahead_sensitivity
    assert (lead.value, lead.low, lead.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    assert not found.readers[0].paired and "unpaired" in found.sentence


def test_the_mean_reader_is_the_mean_of_the_points() -> None:
    rng = np.random.default_rng(3)
    rows = [row for r in range(5) for row in says(f"R{r}", rng.random(100) < 0.4 + 0.3 * INSIDE)]
    found = study(rows)
    each = [reader.sensitivity.value for reader in found.readers]
    assert found.mean.sensitivity.value == pytest.approx(np.mean(each))
    assert found.deviation_sensitivity == pytest.approx(np.std(each, ddof=1))
    rated = reader_study(
        (Rated("A", 0.8, 0.7, 65, 70), Rated("B", 0.6, 0.9, 65, 70)), scores(), PATHS, at(0.7)
    )
    assert rated.mean.sensitivity.value == pytest.approx(0.7)
    assert rated.mean.specificity.value == pytest.approx(0.8)


def test_one_reader_is_their_own_mean() -> None:
    called = np.random.default_rng(4).random(100) < 0.5
    found = study(says("A", called))
    one, mean = found.readers[0].sensitivity, found.mean.sensitivity
    assert (one.value, one.low, one.high) == pytest.approx((mean.value, mean.low, mean.high))


def test_many_readers_of_the_same_images_narrow_the_mean_only_as_far_as_they_differ() -> None:
    rng = np.random.default_rng(5)
    called = rng.random(100) < 0.3 + 0.5 * INSIDE

    def width(rows: list[tuple]) -> float:
        metric = study(rows).mean.sensitivity
        assert metric.low is not None and metric.high is not None
        return metric.high - metric.low

    alone = width(says("A", called))
    alike = width([row for r in range(10) for row in says(f"R{r}", called)])
    own = width(
        [row for r in range(10) for row in says(f"R{r}", rng.random(100) < 0.3 + 0.5 * INSIDE)]
    )
    assert alike == pytest.approx(alone, rel=0.1)
    assert own < 0.7 * alone


def test_the_interval_of_the_lead_over_the_mean_covers() -> None:
    rng, draws, held = np.random.default_rng(6), 120, 0
    for _ in range(draws):
        hard = rng.normal(size=100)
        right = [0.6 * hard + 0.8 * rng.normal(size=100) < 0.8 for _ in range(5)]
        rows = [row for r in range(4) for row in says(f"R{r}", right[r] == INSIDE)]
        called = (right[4] == INSIDE).astype(float)
        lead = reader_study(
            Answered(tuple(rows)), Scores(called, INSIDE), PATHS, at(0.5)
        ).mean.ahead_specificity
        assert lead.low is not None and lead.high is not None
        held += lead.low <= 0 <= lead.high
    assert held / draws >= 0.9


def test_points_below_the_curve_are_counted_and_called_descriptive() -> None:
    judged = scores(gap=2.0)
    guess = np.random.default_rng(7).random(100) < 0.5
    found = study(says("guesser", guess) + says("oracle", INSIDE), judged)
    assert [reader.below_curve for reader in found.readers] == [True, False]
    assert (found.below, found.counted) == (1, 2)
    assert to_json(found)["below_curve"] == {"readers": 1, "of": 2, "descriptive": True}
    assert "no test" in found.sentence


def test_a_point_on_the_curve_is_not_below_it() -> None:
    judged = scores()
    assert study(says("A", judged.score >= 0.7), judged).readers[0].below_curve is False


def test_groups_widen_points_and_leads() -> None:
    rows = says("A", np.random.default_rng(8).random(100) < 0.3 + 0.4 * INSIDE)
    judged = scores()
    tied = Scores(judged.score, INSIDE, np.arange(100) // 5)
    plain, wide = study(rows, judged).readers[0], study(rows, tied).readers[0]
    for name in ("sensitivity", "specificity", "ahead_sensitivity", "ahead_specificity"):
        one, two = getattr(plain, name), getattr(wide, name)
        assert two.value == one.value and two.high - two.low > one.high - one.low


def test_a_cross_fitted_point_calls_each_image_at_the_choice_of_the_others() -> None:
    judged, target = scores(), Target("sensitivity", 0.9)
    point = operating_point("malignant", target, judged)
    assert isinstance(point, OperatingPoint) and point.cross_fitted
    called = np.random.default_rng(9).random(100) < 0.5
    lead = reader_study(Answered(tuple(says("A", called))), judged, PATHS, point).readers[0]
    model = cross_fitted_calls(target, judged)
    expected = stretched(paired("", model[INSIDE], called[INSIDE]), 1.3)
    found = lead.ahead_sensitivity
    assert (found.value, found.low, found.high) == (expected.value, expected.low, expected.high)


def test_answers_for_other_images_are_an_error_that_shows_rows() -> None:
    rows = [("A", f"elsewhere/{i}.jpg", True) for i in range(5)]
    with pytest.raises(DataError, match="5 answers are for images") as caught:
        study([*says("A", INSIDE), *rows])
    assert str(caught.value).count("elsewhere") == 3


def test_refuses_paths_that_do_not_fit() -> None:
    with pytest.raises(ArgumentError, match="one path"):
        reader_study(Answered(tuple(says("A", INSIDE))), scores(), PATHS[:9], at(0.5))


def test_json_is_strict() -> None:
    found = study(says("A", INSIDE, range(20)))
    read_back = json.loads(json.dumps(strict(to_json(found)), allow_nan=False))
    assert read_back["readers"][0]["sensitivity"]["value"] == 1.0
    assert read_back["mean"]["specificity"]["value"] is None
