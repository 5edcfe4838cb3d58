"""A training as files: what the other processes of a team need to take part in it.

JSON for what is decided, safetensors for the weights that it starts from.

N images, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save
from torch import nn

from headstart.backbone.surgery import Adapted
from headstart.data.images import Preprocess
from headstart.files import atomic_write, read_json, write_json
from headstart.train.augment import Augment
from headstart.train.lesson import Lesson, Score
from headstart.train.pixels import Decoded, PixelSource, decode_once
from headstart.train.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Task:
    """What `adapt` is given."""

    model: Adapted
    lesson: Lesson
    recipe: Recipe


def write_task(path: Path, task: Task) -> None:
    """Write everything but the images and the score.

    Args:
        path: a JSON file; the weights lie beside it.
    """
    lesson, source = task.lesson, task.lesson.source
    assert isinstance(source, PixelSource)
    images = source.images
    state = {name: value.contiguous() for name, value in task.model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path.with_suffix(".safetensors"), save(state))
    facts = {
        "recipe": asdict(task.recipe),
        "preprocess": asdict(replace(images.preprocess, size_px=images.size_px)),
        "paths": [str(p.resolve()) for p in images.paths],
        "labels": lesson.labels.tolist(),
        "learn": lesson.learn.tolist(),
        "valid": lesson.valid.tolist(),
        "keep": lesson.keep and list(lesson.keep),
        "hashes": list(lesson.hashes),
    }
    write_json(path, facts)


def read_task(
    path: Path,
    network: Callable[[], nn.Module],
    score: Score,
    workers: int,
    known: Decoded | None = None,
) -> Task:
    """The same task in another process; its images are decoded here once more.

    Args:
        network: makes the network that is trained; its weights are those of the task.
        score: of the criterion that drives the choices.
        known: images that an earlier task has brought, to be used again where they are the same.
    """
    facts = read_json(path)
    stored = facts["recipe"] | {"augment": _augment(facts["recipe"]["augment"])}
    recipe = Recipe(**stored)
    pre = facts["preprocess"]
    pre = Preprocess(**pre | {"mean": tuple(pre["mean"]), "std": tuple(pre["std"])})
    paths = tuple(Path(p) for p in facts["paths"])
    images = known
    if known is None or known.paths != paths or known.size_px != pre.size_px:
        images = decode_once(paths, pre, workers, path.parent)
    assert images is not None
    state = load_file(path.with_suffix(".safetensors"))
    head = state["head.weight"].numpy(), state["head.bias"].numpy()
    model = Adapted(network(), *head, pre.mean, pre.std)
    model.load_state_dict(state)
    learn = np.array(facts["learn"], np.int64)
    lesson = Lesson(
        source=PixelSource(images, recipe.augment, recipe.seed, learn, recipe.mix),
        labels=np.array(facts["labels"], np.int64),
        learn=learn,
        valid=np.array(facts["valid"], np.int64),
        score=score,
        keep=facts["keep"] and (str(facts["keep"][0]), float(facts["keep"][1])),
        hashes=tuple(facts["hashes"]),
    )
    return Task(model, lesson, recipe)


def _augment(stored: dict[str, object]) -> Augment:
    values: dict[str, object] = stored | {"operations": tuple(stored["operations"])}  # type: ignore[arg-type]
    return Augment(**values)  # type: ignore[arg-type]
