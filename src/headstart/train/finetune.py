"""The training loop: fine-tuning, partial tuning and training from scratch differ by the recipe alone.

N images, C classes.

It starts from the trained head with the head's own loss (LP-FT, Kumar et al. 2022), and ends in the
mixture of start and tuned weights that is best on the validation part. Data order, views and
dropout are functions of (seed, epoch, index) or (seed, step), so a run that is killed and resumed
ends with the same weights, and several processes see the same batches as one.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headstart.backbone.surgery import Adapted, check_frozen, network_state
from headstart.errors import ArgumentError, MachineError, require
from headstart.train.average import between, put, wearing
from headstart.train.checkpoint import clear
from headstart.train.head import Head, tempered_loss
from headstart.train.lesson import Lesson, Moment, Row
from headstart.train.loop import DivergedError, Loop
from headstart.train.memory import kept_memory
from headstart.train.recipe import Recipe
from headstart.train.stop import Stop

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Lesson", "Moment", "Row", "Tuned", "finetune", "open_fabric"]

ALPHAS = (0.25, 0.5, 0.75)
"""mixtures of start and end that are tried beside both"""
RETRIES, SLOWER = 2, 0.3
"""a run that diverges goes on from its last checkpoint at this share of its rate, so often"""
CHECKPOINT_STEPS = 100


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a training run ends with."""

    state: Mapping[str, Tensor]
    """of the network that was trained, by its own names: float32, contiguous, on the CPU"""
    head: Head
    average: str
    """whose weights were mixed with the start: `average`, `last`, or `start` for none"""
    alpha: float
    """share of the trained weights; 0: nothing was better than the start"""
    score: float | None
    """on the validation part; None without one"""
    start_score: float | None
    """of the weights it started from"""
    logits: NDArray[np.float32]  # [n, C] of the validation part
    trials: Mapping[tuple[str, float], NDArray[np.float32]]
    """logits [n, C] of every mixture that was tried there, by `average` and `alpha`"""
    history: tuple[Row, ...]
    images_seen: int
    seconds: float
    diverged: bool
    """no rate that was tried led anywhere: state and head are those of the start"""
    notes: tuple[str, ...]


def finetune(
    fabric: Fabric,
    model: Adapted,
    lesson: Lesson,
    recipe: Recipe,
    folder: Path,
    *,
    every: int = CHECKPOINT_STEPS,
    progress: Callable[[Moment], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Train a network as the recipe says, or go on with a run that was stopped or killed.

    Args:
        fabric: launched; see `open_fabric`. It decides device, precision and processes.
        model: the start, with its trained head (or random weights). It is trained in place.
        folder: of the checkpoints, shared by all processes. What is there is gone on with; when the
            result is stored, `checkpoint.clear` it.
        every: steps between two checkpoints; the end of an epoch is one as well.
        progress, say: told where the run stands, and what happened; only the first process's are.

    Raises:
        KeyboardInterrupt, SystemExit: asked to stop; the state is saved first. RunFolderError: the
        checkpoints are of another run, or all damaged. MachineError: the disk or the memory is full.
        InternalError: a frozen tensor has changed.
    """
    if len(lesson.learn) == 0:
        raise ArgumentError("There are no images to learn from")
    if lesson.keep and lesson.keep[0] not in ("start", "last", *(["average"] * (recipe.ema > 0))):
        raise ArgumentError("A run without this average cannot end with it", received=lesson.keep)
    if not fabric.is_global_zero:
        progress, say = (lambda _: None), (lambda _: None)
    with _surroundings(recipe.threads), Stop() as stop:
        loop = Loop(fabric, model, lesson, recipe, folder, say)
        started = loop.logits(lesson.valid) if len(lesson.valid) else None
        if not loop.find():
            loop.save()
        else:
            say(f"going on from step {loop.step} of {loop.steps}")
        while loop.epoch < recipe.epochs and loop.retries <= RETRIES and stop.asked is None:
            _epoch(loop, every, stop, progress)
        found = _chosen(loop, started) if stop.asked is None else None
    if stop.asked is None:
        assert found is not None
        return found
    signal.raise_signal(stop.asked)
    raise KeyboardInterrupt  # whoever ignores the signal: the run is not over


def open_fabric(
    device: str,
    log_to: Path | None = None,
    alone: bool = False,
    precision: Literal["32-true", "bf16-mixed"] | None = None,
) -> Fabric:
    """Fabric for this process, launched: one process, or one of those that torchrun or SLURM started.

    Precision by hardware: bfloat16 where GPU or processor compute in it, else float32.

    Args:
        device: cpu or cuda. log_to: folder for TensorBoard, an optional extra.
        alone: one process, whatever the environment says.
        precision: another than the hardware suggests.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.loggers import TensorBoardLogger
    from lightning_fabric.plugins import MixedPrecision, Precision
    from lightning_fabric.plugins.environments import LightningEnvironment
    from lightning_fabric.strategies import DDPStrategy

    processes = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1")))
    if alone:
        processes = 1
    here = (
        1
        if alone
        else int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("SLURM_NTASKS_PER_NODE", "1")))
    )
    if precision is None:
        precision = "bf16-mixed" if _computes_in_bf16(device) else "32-true"
    kind = MixedPrecision(precision, device) if precision == "bf16-mixed" else Precision()
    loggers = []
    if log_to is not None:
        require("tensorboard", "tensorboard", "logging to TensorBoard")
        loggers = [TensorBoardLogger(log_to, name=None, version="")]
    fabric = Fabric(
        accelerator=device,
        devices=here,
        num_nodes=max(1, processes // here),
        # The statistics of BatchNorms are equal everywhere already: those that learn see all.
        strategy=DDPStrategy(broadcast_buffers=False) if processes > 1 else "auto",
        loggers=loggers,
        plugins=[kind, *([LightningEnvironment()] if alone else [])],
    )
    fabric.launch()
    return fabric


def _computes_in_bf16(device: str) -> bool:
    """Whether the hardware does; others imitate it, more slowly than they compute in float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def _epoch(loop: Loop, every: int, stop: Stop, progress: Callable[[Moment], None]) -> None:
    """One epoch, its validation and its checkpoint; or back to the last checkpoint when it fails."""

    def tell(loss: float, img_s: float) -> None:
        left = (loop.steps - loop.step) * loop.batch / img_s
        score = loop.history[-1].score if loop.history else None
        epochs = loop.recipe.epochs
        now = Moment(
            loop.epoch + 1, epochs, loop.step, loop.steps, loss, score, loop.rate, img_s, left
        )
        _log(loop, {"loss": loss, "rate": loop.rate, "img_s": img_s})
        progress(now)

    try:
        for _ in loop.run_epoch(every, stop, tell):
            loop.save(due=loop.step % every == 0)
        if stop.asked is None:
            _close(loop)
    except DivergedError:
        at, afresh = loop.step, loop.retries > 0
        loop.back(afresh)
        loop.retries, loop.scale = loop.retries + 1, loop.scale * SLOWER
        more = f"going on from step {loop.step} with {loop.scale:.2g} of the rate"
        given_up = loop.retries > RETRIES
        _note(loop, f"training diverged near step {at}; {'given up' if given_up else more}")
        if afresh:  # what lies ahead of the start is not gone on with after a kill
            if loop.fabric.is_global_zero:
                clear(loop.folder)
            loop.save()
    except (RuntimeError, MemoryError) as cause:
        if not no_memory(cause):
            raise
        if loop.fabric.world_size > 1 or loop.micro == 1:
            raise MachineError(
                "Out of memory while training",
                received=f"{loop.micro} images at once",
                do="Choose a smaller --size.",
            ) from cause
        loop.back()
        loop.micro //= 2
        _note(loop, f"out of memory: going on with {loop.micro} images at once")


def _log(loop: Loop, values: Mapping[str, float]) -> None:
    """For TensorBoard, when it listens; one job trains several networks, so each has its own name."""
    name = loop.folder.name
    loop.fabric.log_dict({f"{name}/{key}": value for key, value in values.items()}, loop.step)


def _close(loop: Loop) -> None:
    """The end of an epoch: frozen stages compared, validation, a row of the history, a checkpoint."""
    check_frozen(loop.model, loop.frozen)
    lesson, score = loop.lesson, None
    if len(lesson.valid):
        values = loop.average if loop.recipe.ema else loop.now
        with wearing(loop.now, values):
            score = lesson.score(loop.logits(lesson.valid), lesson.labels[lesson.valid])
        _log(loop, {"score": score})
    seconds = loop.seconds - sum(row.seconds for row in loop.history)
    images = loop.per_epoch * loop.batch
    loop.history.append(
        Row(
            epoch=loop.epoch + 1,
            loss=loop.loss_sum / loop.per_epoch,
            rate=loop.rate,
            score=score,
            img_s=images / max(seconds, 1e-9),
            seconds=seconds,
        )
    )
    loop.epoch, loop.loss_sum = loop.epoch + 1, 0.0
    loop.save()


def _chosen(loop: Loop, started: NDArray[np.float32] | None) -> Tuned:
    """The weights that are best on the validation part: averaged or last, mixed with the start.

    Start and end lie in one valley when the run began at the trained head, and what lies between
    them is often better than both (Wortsman et al. 2022). BatchNorm statistics are mixed, too. The
    averaged end is the one that is mixed, if there is one: folds are put together by mixture.
    """
    lesson, recipe = loop.lesson, loop.recipe
    truth = lesson.labels[lesson.valid]
    ends = {"average": loop.average} if recipe.ema else {}
    ends["last"] = {name: value.detach().clone() for name, value in loop.now.items()}
    main, diverged = next(iter(ends)), loop.retries > RETRIES
    trials: dict[tuple[str, float], NDArray[np.float32]] = {}

    def attempt(end: str, alpha: float) -> None:
        with wearing(loop.now, between(loop.start, {"start": loop.start, **ends}[end], alpha)):
            trials[end, alpha] = loop.logits(lesson.valid)

    def best() -> tuple[str, float]:
        # By the loss: on a small fold the score of a mixture is mostly luck (docs/log.md).
        return max(trials, key=lambda which: _rank(lesson, trials[which], truth))

    if started is not None and diverged:
        trials["start", 0.0] = started
    elif started is not None:
        for end in ends:
            attempt(end, 1.0)
        if recipe.kind != "scratch":
            for alpha in ALPHAS:
                attempt(main, alpha)
    chosen = lesson.keep or (best() if trials else (main, 1.0))
    chosen = ("start", 0.0) if diverged else chosen
    if started is not None and chosen not in trials:
        attempt(*chosen)
    name, alpha = chosen
    put(loop.now, between(loop.start, {"start": loop.start, **ends}[name], alpha))
    check_frozen(loop.model, loop.frozen)
    classes = loop.classes
    logits = trials[chosen] if chosen in trials else np.empty((0, classes), np.float32)
    weight, bias = loop.model.head.weight.detach(), loop.model.head.bias.detach()
    return Tuned(
        state=network_state(loop.model.network),
        head=Head(weight.float().cpu().numpy().copy(), bias.float().cpu().numpy().copy()),
        average=name,
        alpha=alpha,
        score=lesson.score(logits, truth) if len(truth) else None,
        start_score=lesson.score(started, truth) if started is not None else None,
        logits=logits,
        trials=trials,
        history=tuple(loop.history),
        images_seen=loop.step * loop.batch,
        seconds=loop.seconds,
        diverged=diverged,
        notes=tuple(loop.notes),
    )


def _rank(
    lesson: Lesson, logits: NDArray[np.float32], truth: NDArray[np.int64]
) -> tuple[float, float]:
    loss = tempered_loss(logits.astype(np.float64), truth)
    return -loss, lesson.score(logits, truth)


def _note(loop: Loop, text: str) -> None:
    loop.notes.append(text)
    loop.say(text)


def no_memory(cause: BaseException) -> bool:
    """Whether an error says that the memory is full, of the device or of the machine."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(cause, (MemoryError, torch.OutOfMemoryError)) or any(
        word in str(cause).lower() for word in words
    )


@contextlib.contextmanager
def _surroundings(threads: int) -> Iterator[None]:
    """The recipe's threads, and a random generator of our own; both are the caller's again after."""
    before = torch.get_num_threads()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices), kept_memory():
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
