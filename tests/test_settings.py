"""Settings: refused before anything is read, in the words of the flags."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from headstart.errors import ArgumentError
from headstart.run import differences, write_json
from headstart.settings import (
    FitSettings,
    cache_dir,
    compare_settings,
    fit_settings,
    quota,
    threads,
)


def test_the_defaults_need_the_data_folder_only() -> None:
    settings = fit_settings({"data": "photos"})
    assert settings.data == Path("photos")
    assert (settings.seed, settings.small_below, settings.large_above) == (0, 1_000, 10_000)


def test_every_setting_is_described() -> None:
    assert all(field.description for field in FitSettings.model_fields.values())


def test_a_mistyped_setting_is_answered_with_the_nearest() -> None:
    with pytest.raises(ArgumentError, match="Did you mean backbone"):
        fit_settings({"data": "photos", "bakcbone": "x"})
    with pytest.raises(ArgumentError, match="headstart fit --help"):
        fit_settings({"data": "photos", "zzzz": "x"})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"case": 5}, "--case"),
        ({"case": "second"}, "--case"),
        ({"size": 31}, "--size"),
        ({"size": 4096}, "--size"),
        ({"size": "big\x1b[31m"}, "--size"),
        ({"budget": -1}, "--budget"),
        ({"budget": float("nan")}, "--budget"),
        ({"budget": float("inf")}, "--budget"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**40}, "--seed"),  # NumPy and scikit-learn take 32 bits
        ({"small_below": 0}, "--small-below"),
        ({"device": "gpu"}, "--device"),
        ({"data": ""}, "--data.*empty"),  # an unset variable of the shell would mean "here"
        ({"data": "  "}, "--data.*empty"),
        ({"data": None}, "Give a folder of images, or --table FILE.csv. See"),
        ({"out": ""}, "--out.*empty"),
        ({"out": "a\0b"}, "--out.*zero byte"),
        ({"test": Path("a\0b")}, "--test.*zero byte"),
        ({"small_below": 50, "large_above": 40}, "--small-below"),
        ({"cut": "b2", "case": 3}, "--cut belongs to case 2"),
        ({"from_scratch": True, "case": 2}, "--from-scratch"),
        ({"from_scratch": True, "cut": "b2"}, "--from-scratch"),
        ({"by": ["camera"]}, "--by COLUMN needs --table"),
    ],
)
def test_what_cannot_be_is_refused_in_the_words_of_the_flags(
    values: dict[str, Any], words: str
) -> None:
    with pytest.raises(ArgumentError, match=words) as refused:
        fit_settings({"data": "photos", **values})
    assert str(refused.value).isprintable()
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"case": 5}, "--case: give 1, 2, 3 or 4. Received: 5. See headstart plan --help."),
        ({"device": "gpu"}, "--device: give auto, cpu or cuda. Received: gpu."),
        ({"fit_image": "cut"}, "--fit-image: give crop, pad or squash. Received: cut."),
        ({"size": 31}, "--size: 32 to 1024 px. Received: 31."),
        ({"size": "big"}, "--size: 32 to 1024 px. Received: big."),
        ({"epochs": 0}, "--epochs: 1 to 100000. Received: 0."),
        ({"budget": -1}, "--budget: a number of minutes from 0. Received: -1."),
        ({"budget": float("inf")}, "--budget: a number of minutes from 0. Received: inf."),
        ({"small_below": "few"}, "--small-below: a whole number from 1. Received: few."),
        ({"head": "mlp"}, "--head: give linear, or mlp:WIDTH such as mlp:96. Received: mlp."),
        ({"prevalence": "cat=x"}, "--prevalence: give CLASS=SHARE, where the share is a number"),
        ({"data": 7}, "--data: give a path. Received: 7."),
        ({"metric": 7}, "--metric: give text. Received: 7."),
        ({"resume": "perhaps"}, "--resume: give True or False. Received: perhaps."),
        ({"table": "t.csv"}, "Give a folder of images, or --table FILE.csv, not both. See"),
    ],
)
def test_a_refusal_is_in_our_words_and_names_the_commands_own_help(
    values: dict[str, Any], told: str
) -> None:
    with pytest.raises(ArgumentError) as refused:
        fit_settings({"data": "photos", **values}, "plan")
    assert str(refused.value).startswith(told)
    assert str(refused.value).endswith("See headstart plan --help.")


def test_a_comparison_names_its_own_help() -> None:
    for values in ({"folds": 9}, {"seed": -1}, {"epochs": 0}):
        with pytest.raises(ArgumentError, match="See headstart compare --help"):
            compare_settings({"data": "photos", **values})


def test_columns_to_compare_are_one_name_or_several() -> None:
    for given, kept in (("camera", ("camera",)), (["a", "b"], ("a", "b")), ((), None), ([], None)):
        assert fit_settings({"table": "t.csv", "by": given}).by == kept
    assert fit_settings({"data": "photos", "group": "re:x", "by": "group"}).by == ("group",)


def test_settings_cannot_change_once_made() -> None:
    with pytest.raises(ValidationError):
        fit_settings({"data": "photos"}).seed = 3  # type: ignore[misc]


def test_only_settings_that_decide_the_result_matter() -> None:
    plain = fit_settings({"data": "photos"}).that_matter()
    other = fit_settings({"data": "photos", "out": "x", "resume": True, "report": False})
    assert other.that_matter() == plain
    assert fit_settings({"data": "photos", "seed": 1}).that_matter() != plain


def test_a_path_that_is_no_text_can_be_stored_and_compared(tmp_path: Path) -> None:
    name = os.fsdecode(b"photos\xff\x1b")
    matter = fit_settings({"data": name, "budget": 2}).that_matter()
    write_json(tmp_path / "run.json", {"settings": matter})
    stored = json.loads((tmp_path / "run.json").read_bytes().decode("utf-8"))
    assert differences(stored, matter) == []
    assert len(differences(stored, matter | {"data": "photos"})) == 1


def test_the_cache_is_where_the_user_says_else_where_the_system_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch")
    monkeypatch.setenv("HEADSTART_CACHE", "~/own")
    assert cache_dir() == Path("/home/ada/own")
    monkeypatch.setenv("HEADSTART_CACHE", "")
    assert cache_dir() == Path("/scratch/headstart")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == Path("/home/ada/.cache/headstart")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADSTART_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}["nobody of that number"])
    with pytest.raises(ArgumentError, match="HEADSTART_CACHE"):
        cache_dir()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_a_process_that_may_use_one_processor_gets_one_thread() -> None:
    before = os.sched_getaffinity(0)
    assert 1 <= threads() <= len(before)  # a container may allow fewer
    try:
        os.sched_setaffinity(0, {min(before)})
        assert threads() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_prevalence_is_read_from_words_lists_and_mappings() -> None:
    def read(value: Any) -> Any:
        return fit_settings({"data": "photos", "prevalence": value}).prevalence

    assert read(None) is None
    assert read([]) is None
    assert read("cat=0.1,dog=.2") == {"cat": 0.1, "dog": 0.2}
    assert read(["cat=0.1", "dog=1e-3"]) == {"cat": 0.1, "dog": 0.001}
    assert read({"cat": 0.1}) == {"cat": 0.1}
    assert read("cats, small=0.1,a=b=0.2") == {"cats, small": 0.1, "a=b": 0.2}
    for wrong in ("cat", "cat=", "=0.1", "cat=0.1,", "cat=nan", "cat=0", 7, {"cat": 2}):
        with pytest.raises(ArgumentError, match="--prevalence"):
            read(wrong)


def test_a_containers_quota_counts_in_either_version_wherever_it_is_set(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("4:cpu,cpuacct:/kube/pod\n0::/user/job\n")
    assert quota(own, tmp_path) == float("inf")
    for group, text in (("user/job", "max 100000"), ("user", "150000 100000")):
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / group / "cpu.max").write_text(text + "\n")
    assert quota(own, tmp_path) == 1.5  # the job itself is free, what it lies in is not
    pod = tmp_path / "cpu" / "kube"
    pod.mkdir(parents=True)
    (pod / "cpu.cfs_quota_us").write_text("50000\n")
    (pod / "cpu.cfs_period_us").write_text("100000\n")
    assert quota(own, tmp_path) == 0.5
    (pod / "cpu.cfs_quota_us").write_text("-1\n")
    assert quota(own, tmp_path) == 1.5
