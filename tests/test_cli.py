"""The command line at its worst user's hands: one clear sentence, the right exit code, nothing lost."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from headstart import pipeline
from headstart.errors import MachineError
from headstart.run import Run, existing_manifest, read_json
from runs import call, refused, start, train
from toys import draw_photos


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# -- what is typed -------------------------------------------------------------------------------

TYPED = [
    (["fit", "photos", "--bugdet", "3"], "There is no flag --bugdet. Did you mean --budget?"),
    (["fit", "photos", "--seeed=3"], "There is no flag --seeed. Did you mean --seed?"),
    (["predikt", "x"], "No such command 'predikt'. Did you mean 'predict'?"),
    (["fit"], "Give a folder of images, or --table FILE.csv. See headstart fit --help"),
    (["check"], "Give a folder of images, or --table FILE.csv. See headstart check --help"),
    (["plan", "x", "--size", "9"], "--size: 32 to 1024 px. Received: 9. See headstart plan --help"),
    (["compare", "x", "--seed", "-1"], "See headstart compare --help"),
    (["predict", "run"], "Missing argument 'IMAGE'"),
    (["cache", "--all"], "--all goes with --clear. See headstart cache --help"),
    (["fit", "photos", "--case", "5"], "--case: give 1, 2, 3 or 4. Received: 5."),
    (["fit", "photos", "--case", "two"], "Invalid value for '--case'"),
    (["fit", "photos", "--seed"], "--seed"),
    (["fit", "photos", "--seed", "-1"], "--seed: 0 to 2147483647. Received: -1."),
    (["fit", "photos", "--size", "7"], "--size: 32 to 1024 px. Received: 7."),
    (["fit", "photos", "--budget", "nan"], "--budget: a number of minutes from 0"),
    (["fit", "photos", "--device", "tpu"], "--device: give auto, cpu or cuda."),
    (["fit", "photos", "--head", "mlp"], "--head: give linear, or mlp:WIDTH such as mlp:96."),
    (["fit", "photos", "--case", "1", "--cut", "b1"], "--cut belongs to case 2 and cannot go with"),
    (["fit", "photos", "--from-scratch", "--case", "1"], "--from-scratch means case 4"),
    (["fit", "photos", "--small-below", "9", "--large-above", "3"], "--small-below must not be"),
    (["fit", ""], "a path must not be empty"),
    (["fit", "photos", "more"], "unexpected extra argument"),
    (["plan", "photos", "--cut", "b1"], "There is no flag --cut."),
]


@pytest.mark.parametrize(("arguments", "told"), TYPED)
def test_a_typing_error_is_one_sentence(capsys: Any, arguments: list[str], told: str) -> None:
    assert told.casefold() in refused(capsys, *arguments).casefold()
    assert list(Path().iterdir()) == []


def test_an_unknown_backbone_gets_the_nearest_names(photos: Path, capsys: Any) -> None:
    told = refused(capsys, "fit", photos, "--backbone", "tf_efficientnet_lit0")
    assert "Did you mean tf_efficientnet_lite0" in told
    assert not Path("runs").exists()


def test_a_cut_that_is_no_stage_gets_all_stages(photos: Path, capsys: Any) -> None:
    told = refused(capsys, "fit", photos, "--cut", "block3")
    assert "Stages in order: stem, b0, b1, b2, b3, b4, b5, b6, head." in told


def test_help_is_short_and_cheap(capsys: Any) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with start("--help") as process:
        text = process.communicate()[0]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert process.returncode == 0
    assert "..." not in text.split("Commands:")[1]  # no sentence is cut short
    assert max(map(len, text.splitlines())) <= 80
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
    assert call() == 2
    assert "Usage: headstart" in capsys.readouterr().err


def test_usage_lines_repeat_no_sign_of_the_parser(capsys: Any) -> None:
    for command in ("predict", "next", "explain", "report", "backbones"):
        assert call(command, "--help") == 0
        usage = capsys.readouterr().out.splitlines()[0]
        assert not {"[[", "...}", "...]", "|"} & {
            usage[i : i + n] for i in range(99) for n in (1, 2, 4)
        }


@pytest.mark.parametrize("command", ["fit", "predict", "evaluate"])
def test_the_help_of_the_main_commands_ends_with_an_example(command: str, capsys: Any) -> None:
    assert call(command, "--help") == 0
    last = capsys.readouterr().out.rstrip().splitlines()[-1].strip()
    assert last.startswith(f"For example:  headstart {command} ")


def test_the_version_is_told(capsys: Any) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"headstart {version('headstart')}\n"


# -- what is there -------------------------------------------------------------------------------


def corrupt(photos: Path, keep: int) -> None:
    for path in sorted(photos.rglob("*.png"))[keep:]:
        path.write_bytes(b"no picture")


def only(photos: Path, names: set[str]) -> None:
    for folder in photos.iterdir():
        if folder.name not in names:
            shutil.rmtree(folder)


def one_image_in_red(photos: Path) -> None:
    for path in sorted((photos / "red").iterdir())[1:]:
        path.unlink()


SPOILED = {
    "no folder": (shutil.rmtree, "does not exist"),
    "empty": (lambda photos: only(photos, set()), "No images were found"),
    "one class": (lambda photos: only(photos, {"red"}), "only one class"),
    "one image": (one_image_in_red, "red (1)"),
    "all corrupt": (lambda photos: corrupt(photos, 0), "36 of 36 files cannot be read"),
    "most corrupt": (lambda photos: corrupt(photos, 10), "26 of 36 files cannot be read"),
    "a file": (lambda p: (shutil.rmtree(p), p.write_text("")), "is a file"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_bad_data_are_one_sentence_with_the_folder(photos: Path, capsys: Any, what: str) -> None:
    spoil, told = SPOILED[what]
    spoil(photos)  # type: ignore[operator]
    assert told in (sentence := refused(capsys, "fit", photos, "--out", "run"))
    assert str(photos) in sentence
    stored = existing_manifest(Path("run"))
    assert stored is None or (stored["status"] == "failed" and told in stored["error"])
    assert not Path("run/model").exists()


def test_a_place_that_cannot_be_written_is_named(
    photos: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_text("mine")
    assert "not a folder" in refused(capsys, "fit", photos, "--out", "file/run")
    assert Path("file").read_text() == "mine"

    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", forbidden)
    told = refused(capsys, "fit", photos, "--out", "run")
    assert told == (
        "Could not create the run folder: permission denied: run. Choose a folder you may write "
        "to with --out."
    )


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
from headstart.entry import main
main()
"""


def test_a_full_disk_is_exit_1_and_what_was_there_before_is_whole(photos: Path) -> None:
    train(photos, Path("cached"))
    command = [sys.executable, "-c", FULL, "fit", photos, "--out", "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the disk is full" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert read_json(Path("run/run.json"))["status"] == "failed"
    assert "the disk is full" in read_json(Path("run/run.json"))["error"]
    assert not Path("run/model").exists()
    assert not list(Path("run").glob(".*model*"))
    assert call("fit", photos, "--out", "run", "--resume", "--no-report") == 0


def test_an_existing_run_is_never_overwritten(photos: Path, capsys: Any) -> None:
    train(photos, Path("run"))
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    assert "--resume" in refused(capsys, "fit", photos, "--out", "run")
    assert {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")} == before
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("years of work")
    for flags in ([], ["--resume"]):
        assert "not a headstart run" in refused(capsys, "fit", photos, "--out", "mine", *flags)
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.tex"]
    assert call("fit", photos, "--out", "run", "--resume", "--no-report") == 0
    shown = capsys.readouterr()
    assert "this run is finished already" in shown.err
    assert "accuracy" in shown.out


def test_two_at_once_in_one_folder_are_refused(photos: Path, capsys: Any) -> None:
    train(photos, Path("run"))
    stored = read_json(Path("run/run.json"))
    with Run(Path("run"), "fit", stored["settings"], 1):
        told = refused(capsys, "fit", photos, "--out", "run", "--resume")
        assert f"Another headstart process (pid {os.getpid()}) is working" in told


def test_default_run_folders_are_numbered(photos: Path, capsys: Any) -> None:
    for k in (1, 2):
        assert call("plan", photos) == 0
        assert f"stored:  runs/photos-{k}\n" in capsys.readouterr().out


def test_the_next_line_of_a_plan_keeps_what_was_asked_for(photos: Path, capsys: Any) -> None:
    assert call("plan", photos, "--group", "re:_([0-9])", "--size", "96", "--out", "run") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"next:    headstart fit {photos} --group 're:_([0-9])' --size 96"


def test_without_out_the_newest_run_of_the_same_command_is_gone_on_with(
    photos: Path, capsys: Any
) -> None:
    assert call("plan", photos) == 0
    assert call("check", photos) == 0
    capsys.readouterr()
    assert call("plan", photos, "--resume") == 0
    shown = capsys.readouterr()
    assert "this run is finished already" in shown.err
    assert "stored:  runs/photos-1\n" in shown.out
    Path("runs/photos-3").mkdir()
    assert call("fit", photos, "--resume", "--no-report") == 0  # there is none yet
    assert read_json(Path("runs/photos-4/run.json"))["status"] == "done"


def test_clearing_the_cache_says_how_much_it_removed(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    for name in ("features/x/a.shard", "graphs/y/model.onnx"):
        (tmp_path / "cache" / name).parent.mkdir(parents=True)
        (tmp_path / "cache" / name).write_bytes(bytes(1_500_000))
    assert call("cache", "--clear") == 0
    assert "1.5 MB removed" in capsys.readouterr().err
    assert (tmp_path / "cache/graphs/y/model.onnx").exists()
    assert call("cache", "--clear", "--all") == 0
    assert "1.5 MB removed" in capsys.readouterr().err
    assert not (tmp_path / "cache/graphs").exists()
    assert call("cache", "--prune", "1") == 0
    assert "0.0 MB removed" in capsys.readouterr().err


# -- stopping ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_stopped_pass_can_be_gone_on_with(tmp_path: Path, number: int, code: int) -> None:
    photos = draw_photos(tmp_path / "photos", 40, side_px=32, seed=100 + number)
    with start("fit", photos, "--out", "run", "--no-report") as process:
        deadline = time.monotonic() + 30
        while not Path("run/split.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate()
    assert process.returncode == code
    assert out == ""
    assert "Traceback" not in err
    stored = read_json(Path("run/run.json"))
    assert not Path("run/model").exists()
    if number == signal.SIGKILL:
        assert stored["status"] == "running"
    else:
        assert (stored["status"], stored["error"]) == ("stopped", "stopped by the user")
        assert err.splitlines()[-2:] == [
            "what was done is kept; go on with it: --out run --resume",
            "headstart: stopped",
        ]
    assert call("fit", photos, "--out", "run", "--no-report", "--resume") == 0
    assert read_json(Path("run/run.json"))["status"] == "done"


def test_a_reader_that_wants_no_more_does_not_cost_the_run(photos: Path) -> None:
    with start("fit", photos, "--out", "run", "--no-report") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stderr.close()
    assert process.returncode == 0
    assert read_json(Path("run/run.json"))["status"] == "done"


# -- faults of our own and odd terminals ---------------------------------------------------------


def test_a_fault_of_ours_says_where_and_how_to_report_it(
    photos: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "check", lambda *_: {}["\x1b[31mlost"])
    monkeypatch.delenv("HEADSTART_DEBUG", raising=False)
    assert call("fit", photos, "--out", "run") == 1
    shown = capsys.readouterr().err
    assert "A fault in headstart: KeyError" in shown
    assert "HEADSTART_DEBUG=1" in shown
    assert "\x1b" not in shown
    assert "Traceback" not in shown
    assert read_json(Path("run/run.json"))["status"] == "failed"


@pytest.mark.parametrize("kind", [MemoryError, MachineError])
def test_the_machine_giving_up_is_exit_1(
    photos: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def broken(*_: Any) -> None:
        raise kind("no more")

    monkeypatch.setattr(pipeline, "features", broken)
    refused(capsys, "fit", photos, "--out", "run", code=1)
    assert read_json(Path("run/run.json"))["status"] == "failed"


def test_terminals_without_our_letters_and_closed_outputs_are_no_failure(
    photos: Path, capsys: Any
) -> None:
    assert call("plan", photos, "--out", "run") == 0
    capsys.readouterr()
    arguments = [sys.executable, "-m", "headstart", "plan", str(photos), "--out", "run", "--resume"]
    western = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(
        arguments, capture_output=True, env=western, check=True, encoding="latin-1"
    )
    assert "\\u2588" in done.stdout
    closed = subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *arguments], check=False)
    assert closed.returncode == 0
