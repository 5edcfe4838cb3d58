"""Open a run: read the names, find the network, refuse what cannot be done, before anything is written.

A run folder is fresh, or an interrupted one to go on with, or a finished one whose outcome is shown.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.device import detect_device
from headstart.backbone.graph import TapGraph, tap_graph
from headstart.data.check import named_classes
from headstart.data.sources import Dataset, read
from headstart.data.table import PATTERN, check_columns, read_table, with_groups
from headstart.errors import RunFolderError, show
from headstart.judge.complete import prevalences
from headstart.judge.relabel import relabel
from headstart.judge.words import counted
from headstart.plan.criterion import choose_criterion
from headstart.plan.decide import Facts, decide
from headstart.run import TRAINING, Run, differences, existing_manifest, latest, next_free
from headstart.settings import FitSettings, threads
from headstart.train.augment import parse_augment

PARITY_IMAGES = 8


@dataclass(frozen=True, slots=True)
class Opened:
    """What is known before anything is written: the names of the images, and the network."""

    run: Run
    dataset: Dataset
    graph: TapGraph
    graph_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command leaves behind: the run folder, and whether it was there before."""

    folder: Path
    already_done: bool = False


def open_run(settings: FitSettings, command: str) -> Opened | Outcome:
    """A fresh run, an interrupted one to go on with, or a finished one's outcome.

    Whatever the user can mend (a name, a flag, a stage) is refused here, before anything is
    written, so that the same command works once it is mended.

    Raises:
        RunFolderError: the folder exists without --resume, or belongs to another job.
    """
    given = settings.out or (latest(settings.source, command) if settings.resume else None)
    folder = given or next_free(settings.source)
    stored = existing_manifest(folder)
    if stored is not None and not settings.resume:
        raise RunFolderError(
            "This run folder exists already",
            where=folder,
            do="Choose another with --out, or go on with it: --resume.",
        )
    dataset = read_data(settings)
    matter = {"command": command, **settings.that_matter(), "listing": listing(dataset)}
    if settings.relabel is not None:
        dataset, matter["relabel"] = with_corrected_labels(dataset, settings.relabel)
    if settings.resume and stored is None:
        say(f"nothing to resume in {show(folder)}: starting afresh")
    if stored is not None:
        if stored.get("status") == "failed" and not (folder / "data.json").exists():
            say(f"the run in {show(folder)} failed before it had any result: starting afresh")
        else:
            must_agree(stored, matter, folder)
            if stored.get("status") == "done":
                return Outcome(folder, already_done=True)
            say(f"going on with {show(folder)}: features that were computed are kept")
    classes = named_classes(Counter(dataset.classes[one.label] for one in dataset.samples))
    say(f"{counted(len(dataset.samples), 'file')} in {classes}")
    began = time.perf_counter()
    some = [dataset.locate(dataset.samples[i]) for i in spread(len(dataset.samples))]
    graph = tap_graph(settings.backbone, settings.weights, settings.size, some)
    if settings.fit_image is not None:
        graph = replace(graph, preprocess=replace(graph.preprocess, fit=settings.fit_image))
    can_be_done(settings, dataset, graph)
    graph_s = time.perf_counter() - began
    return Opened(Run(folder, command, matter, threads()), dataset, graph, graph_s)


def can_be_done(settings: FitSettings, dataset: Dataset, graph: TapGraph) -> None:
    """Refuse a metric, a forced case or a cut that cannot be, before any image is looked at."""
    labels = np.array([sample.label for sample in dataset.samples])
    choose_criterion(settings.metric, labels, dataset.classes)
    parse_augment(settings.augment)
    prevalences(settings.prevalence or {}, dataset.classes)
    detect_device(settings.device)
    nothing = Facts(0, "unclear", "", graph.stage_names, {}, 1, 1)
    decide(nothing, settings.case, settings.cut, settings.from_scratch)


def listing(dataset: Dataset) -> dict[str, Any]:
    """Which files there are, by path and size: cheap, and enough to notice a changed folder."""
    digest = hashlib.blake2b(digest_size=8)
    total = 0
    for sample in dataset.samples:
        size = -1  # a link that leads nowhere: the check will name it
        with contextlib.suppress(OSError):
            size = dataset.locate(sample).stat().st_size
        total += max(0, size)
        digest.update(os.fsencode(sample.path) + b"\0%d\0" % size)
    return {"files": len(dataset.samples), "bytes": total, "digest": digest.hexdigest()}


def must_agree(stored: dict[str, Any], matter: dict[str, Any], folder: Path) -> None:
    """A run is only gone on with, or printed, when it was made from the same data and settings."""
    settings = found if isinstance(found := stored.get("settings"), dict) else {}
    before, now = settings.get("listing"), matter["listing"]
    if stored.get("command") != matter["command"]:
        raise RunFolderError(
            f"This run was made by headstart {show(stored.get('command'))}",
            where=folder,
            do=f"Give headstart {matter['command']} a folder of its own with --out.",
        )
    if before != now:
        was, is_now = (
            f"{found.get('files')} files of {found.get('bytes')} bytes"
            for found in (before if isinstance(before, dict) else {}, now)
        )
        change = f"{was}, now {is_now}" if was != is_now else f"{was}, of which some changed"
        raise RunFolderError(
            f"This run was made with other data: {change}",
            where=folder,
            do="Restore the data, or start a new run with another --out.",
        )
    # The same files may lie elsewhere by now: where they lie does not matter.
    same = {
        key: value
        for key, value in matter.items()
        if key not in ("data", "table", "test", "listing")
    }
    if changed := differences(stored, same, (folder / TRAINING).is_dir()):
        raise RunFolderError(
            f"This run was made with other settings: {'; '.join(changed)}",
            where=folder,
            do="Use the same settings, or a new folder with --out.",
        )


def with_corrected_labels(dataset: Dataset, file: Path) -> tuple[Dataset, list[str]]:
    """The data set with the labels of a corrected table, and what was changed: a resumed run must
    have the same changes, wherever the table lies by now.

    Raises:
        DataError: see `relabel.relabel`.
    """
    found = relabel(dataset, file)
    if found.changes:
        corrected = counted(len(found.changes), "label")
        say(f"{corrected} corrected by {show(file)}; the files stay where they are")
    else:
        say(f"{show(file)} corrects no label: they are all as in the data set")
    return found.dataset, [f"{change.path}: {change.after}" for change in found.changes]


@contextlib.contextmanager
def working(run: Run) -> Iterator[Run]:
    """The open run; whoever stops it is told how to go on."""
    try:
        with run:
            yield run
    except (KeyboardInterrupt, SystemExit):
        say(f"what was done is kept; go on with it: --out {show(run.folder)} --resume")
        raise


def say(text: str) -> None:
    """One line for people, on stderr; nobody listening is no reason to stop."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(f"{text}\n")


def spread(n: int) -> NDArray[np.int64]:
    """Indices of a few of n images in order, from first to last: samples are sorted by class."""
    return np.unique(np.linspace(0, n - 1, min(PARITY_IMAGES, n)).round().astype(np.int64))


def read_data(settings: FitSettings) -> Dataset:
    """The folder or the table, with the groups that were asked for."""
    pattern = settings.group if (settings.group or "").startswith(PATTERN) else None
    if settings.table is not None:
        dataset = read_table(settings.table, None if pattern else settings.group)
    else:
        dataset = read(settings.source, settings.test)
    dataset = dataset if pattern is None else with_groups(dataset, pattern)
    check_columns(dataset, settings.by or ())
    return dataset
