"""What the other processes of a team do: wait, and take part whenever a network is trained.

They load the same images and the same start as the first process and see their share of every batch;
what comes of it is kept, judged and written by the first one alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from headstart.plan.criterion import Criterion, scorer
from headstart.settings import FitSettings, threads
from headstart.train.team import JOIN, Team, beside, joined
from headstart.training import network_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from headstart.train.pixels import Decoded
    from headstart.train.task import Task


def follow(settings: FitSettings, team: Team) -> NoReturn:
    """Take part until the first process has finished, and end this process.

    Raises:
        SystemExit: always; with 0, when the first process is done.
    """
    fabric: Fabric | None = None
    images: Decoded | None = None
    for heard in team.listen():
        if heard["what"] == JOIN:
            fabric = joined(heard["device"])
            continue
        assert fabric is not None
        task = _task(settings, heard, images)
        images = _images(task)
        from headstart.train.adapt import adapt

        adapt(fabric, task.model, task.lesson, task.recipe, Path(heard["checkpoints"]))
    raise SystemExit(0)


def _task(settings: FitSettings, heard: dict[str, str], images: Decoded | None) -> Task:
    from headstart.train.task import read_task

    criterion = Criterion(**heard["criterion"])  # type: ignore[arg-type]

    return read_task(
        Path(heard["task"]),
        lambda: network_of(settings, heard["strategy"]),  # type: ignore[arg-type]
        scorer(criterion),
        max(1, threads() // beside()),
        images,
    )


def _images(task: Task) -> Decoded:
    from headstart.train.pixels import PixelSource

    source = task.lesson.source
    assert isinstance(source, PixelSource)
    return source.images
