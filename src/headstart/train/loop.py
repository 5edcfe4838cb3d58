"""One training run, step by step: what is in its state, how a step goes, how it is saved and found.

N images, C classes, B batch of all processes together, P processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from headstart.backbone.depthwise import quicken
from headstart.backbone.fold import fold_norms
from headstart.backbone.surgery import (
    Adapted,
    check_frozen,
    digest,
    freeze,
    learning,
    stage_of,
    synchronise_norms,
)
from headstart.errors import RunFolderError
from headstart.parallel import ordered_map
from headstart.train.augment import order
from headstart.train.average import copied, follow, put
from headstart.train.checkpoint import Checkpoint, load_newest, save
from headstart.train.lesson import Lesson, Row, fingerprint
from headstart.train.pixels import Views
from headstart.train.recipe import Recipe
from headstart.train.schedule import groups, shape
from headstart.train.stop import Stop

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Int = NDArray[np.int64]

WINDOW = 10
"""steps between two looks at the loss: every look waits for the device"""
EXPLODED = 4.0
"""times the larger of the first loss and that of guessing: nothing is learned from there"""
MOMENTS = ("exp_avg", "exp_avg_sq")


class DivergedError(Exception):
    """The loss is not finite, or has exploded."""


class Loop:
    """The state of a run, and the steps that move it on.

    Args:
        model: the start; its stages are frozen here as the recipe says.
        say: told what happens on the way; every process calls it, one of them should print.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: Adapted,
        lesson: Lesson,
        recipe: Recipe,
        folder: Path,
        say: Callable[[str], None],
    ) -> None:
        self.fabric, self.model, self.lesson, self.recipe = fabric, model, lesson, recipe
        self.folder, self.say = folder, say
        self.step = self.epoch = self.retries = 0
        self.scale = 1.0
        """of every rate; lowered when the run diverges"""
        self.micro = recipe.micro_batch
        self.history: list[Row] = []
        self.notes: list[str] = []
        self.loss_sum = self.seconds = 0.0
        self.first_loss: float | None = None
        self.smooth: float | None = None
        """mean loss that forgets a tenth at each step"""
        self.beside: int | None = None  # a checkpoint that only a stop has written
        first = torch.from_numpy(np.array(lesson.source.views(0, lesson.learn[:1]).inputs))
        example = first.permute(0, 3, 1, 2).float()
        freeze(model, example, recipe.through, recipe.norm_eval)
        model.to(memory_format=torch.channels_last)
        owner = stage_of(model.network, example)
        if recipe.norm_eval:
            fold_norms(model, example)
        quicken(model.network)
        if fabric.world_size > 1:
            synchronise_norms(model, fabric.device.type == "cuda")
        self.optimizer = torch.optim.AdamW(groups(model, owner, recipe), fused=True)
        self.wrapped, self.prepared = fabric.setup(model, self.optimizer)
        self.now = learning(model)
        self.start, self.average = copied(self.now), copied(self.now)
        self.frozen = digest(model)
        self.fingerprint = fingerprint(lesson, recipe, self.start, self.frozen)
        self.batch = max(1, min(recipe.batch, len(lesson.learn)) // fabric.world_size)
        self.batch *= fabric.world_size
        self.per_epoch = max(1, len(lesson.learn) // self.batch)
        self.steps = self.per_epoch * recipe.epochs

    # -- an epoch --------------------------------------------------------------------------------

    def run_epoch(
        self, every: int, stop: Stop, tell: Callable[[float, float], None]
    ) -> Iterator[None]:
        """Train to the end of the epoch; yields where a checkpoint is due.

        Args:
            every: steps between two checkpoints. tell: given the mean loss and img/s.

        Raises:
            DivergedError: see there; the state is then of no use.
        """
        self.lesson.source.prepare(self.epoch)
        self.wrapped.train()
        losses: list[Tensor] = []
        done, began = 0, time.perf_counter()
        for batch in self._batches():
            losses.append(self._train(batch))
            self.step += 1
            done += self.batch
            last = self.step == (self.epoch + 1) * self.per_epoch
            due = self.step % every == 0 and not last
            asked = self._asked(stop)
            if len(losses) >= WINDOW or last or due or asked:
                mean = self._look(losses)
                losses = []
                self.seconds += time.perf_counter() - began
                tell(mean, done / (time.perf_counter() - began))
                done, began = 0, time.perf_counter()
            if due or asked:
                yield
                began = time.perf_counter()
            if asked:
                return

    def _asked(self, stop: Stop) -> bool:
        """Whether any process was asked to stop; all must do so after the same step."""
        if self.fabric.world_size == 1:
            return stop.asked is not None
        if self.step % WINDOW and self.step % self.per_epoch:
            return False
        mine = torch.tensor(float(stop.asked or 0), device=self.fabric.device)
        most = int(self.fabric.all_gather(mine).max())
        stop.asked = most or None
        return most > 0

    def _batches(self) -> Iterator[list[tuple[Views, Int]]]:
        """The rest of the epoch: per step this process's share, in passes of `micro` images."""
        recipe, fabric, learn = self.recipe, self.fabric, self.lesson.learn
        rows = learn[order(recipe.seed, self.epoch, len(learn), self.per_epoch * self.batch)]
        plan: list[Int] = []
        passes: list[int] = []
        for step in range(self.step - self.epoch * self.per_epoch, self.per_epoch):
            share = rows[step * self.batch : (step + 1) * self.batch]
            share = share[fabric.global_rank :: fabric.world_size]
            parts = [share[i : i + self.micro] for i in range(0, len(share), self.micro)]
            plan += parts
            passes.append(len(parts))

        def load(some: Int) -> tuple[Views, Int]:
            return self.lesson.source.views(self.epoch, some), some

        loaded = ordered_map(load, plan, max(2, recipe.threads))
        for count in passes:
            yield [next(loaded) for _ in range(count)]

    def _train(self, batch: list[tuple[Views, Int]]) -> Tensor:
        """One step; returns its loss and the norm of its gradient [2], still on the device."""
        recipe, fabric = self.recipe, self.fabric
        # Dropout draws by step, not by what was drawn before: a resumed run draws the same.
        torch.manual_seed(_mixed_seed(recipe.seed, self.step, fabric.global_rank))
        images = sum(len(rows) for _, rows in batch)
        total = torch.zeros((), device=fabric.device)
        for k, (views, rows) in enumerate(batch):
            with fabric.no_backward_sync(self.wrapped, enabled=k < len(batch) - 1):
                loss = self._loss(views, rows) * (len(rows) / images)
                fabric.backward(loss)
            total += loss.detach()
        norm = fabric.clip_gradients(
            self.wrapped, self.prepared, max_norm=recipe.clip, error_if_nonfinite=False
        )
        assert norm is not None
        rate = self.scale * shape(self.step, self.steps, recipe.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        self.prepared.step()
        self.prepared.zero_grad()
        if recipe.pull:
            self._pull(recipe.pull)
        if recipe.ema:
            follow(self.average, self.now, recipe.ema, self.step)
        return torch.stack([total, norm.to(total.dtype)])

    def _loss(self, views: Views, rows: Int) -> Tensor:
        device = self.fabric.device
        inputs = torch.from_numpy(views.inputs)
        if device.type == "cuda":
            inputs = inputs.pin_memory()
        logits = self.wrapped(inputs.to(device, non_blocking=True))
        loss = self._losses(logits, rows)
        if views.partners is not None and views.shares is not None:
            share = torch.from_numpy(views.shares).to(device)
            loss = share * loss + (1 - share) * self._losses(logits, views.partners)
        return loss.mean()

    def _losses(self, logits: Tensor, rows: Int) -> Tensor:
        truth = torch.from_numpy(self.lesson.labels[rows]).to(logits.device)
        smoothing = self.recipe.smoothing
        return cross_entropy(logits, truth, reduction="none", label_smoothing=smoothing)

    def _pull(self, strength: float) -> None:
        """L2-SP, apart from the gradient as AdamW does with weight decay."""
        with torch.no_grad():
            for group in self.optimizer.param_groups:
                toward = [self.start[name] for name in group["names"]]
                torch._foreach_lerp_(group["params"], toward, min(1.0, group["lr"] * strength))

    def _look(self, losses: list[Tensor]) -> float:
        """Mean loss of the last steps over all processes."""
        stacked = torch.stack(losses)
        if self.fabric.world_size > 1:
            stacked = self.fabric.all_reduce(stacked, reduce_op="mean")
        rows: list[list[float]] = stacked.tolist()
        # One by one, so that nothing depends on how many were looked at together.
        for loss, norm in rows:
            self.loss_sum += loss
            self.smooth = loss if self.smooth is None else 0.9 * self.smooth + 0.1 * loss
            if self.first_loss is None:
                self.first_loss = loss
            limit = EXPLODED * max(self.first_loss, math.log(self.classes))
            if not (math.isfinite(loss) and math.isfinite(norm) and self.smooth <= limit):
                raise DivergedError
        return sum(loss for loss, _ in rows) / len(rows)

    @property
    def classes(self) -> int:
        """C"""
        return int(self.model.head.out_features)

    @property
    def rate(self) -> float:
        """Of the last stage at the next step."""
        return self.recipe.rate * self.scale * shape(self.step, self.steps, self.recipe.warmup)

    def logits(self, rows: Int) -> NDArray[np.float32]:
        """[n, C] of images as they are served, in float32, with the weights that the model wears."""
        size, rank = self.fabric.world_size, self.fabric.global_rank
        padded = np.resize(rows, -(-len(rows) // size) * size)
        mine = padded[rank::size]
        found = []
        self.model.eval()
        step = max(16, self.micro)
        parts = [mine[i : i + step] for i in range(0, len(mine), step)]
        with torch.inference_mode():
            for inputs in ordered_map(self.lesson.source.whole, parts, max(2, self.recipe.threads)):
                pixels = torch.from_numpy(np.ascontiguousarray(inputs)).to(self.fabric.device)
                found.append(self.model(pixels))
        gathered = torch.cat(found)
        if size > 1:
            gathered = self.fabric.all_gather(gathered).transpose(0, 1).flatten(0, 1)
        self.wrapped.train()
        return gathered[: len(rows)].cpu().numpy()

    def pace(self, seconds: float) -> float:
        """Images per second, from as many steps as the time allows; the state is of no use then."""
        self.wrapped.train()
        batches = self._batches()
        self._train(next(batches)).tolist()  # the first one also asks for memory
        began, done = time.perf_counter(), 0
        for batch in batches:
            self._train(batch).tolist()  # waits for the device
            done += 1
            if time.perf_counter() - began > seconds:
                break
        return float(done * self.batch / (time.perf_counter() - began))

    # -- saving and finding ----------------------------------------------------------------------

    def save(self, due: bool = True) -> None:
        """Write a checkpoint of this very moment; one process writes, all wait.

        Args:
            due: whether it is written without a stop, too; a run that diverges goes back to such a one.
        """
        check_frozen(self.model, self.frozen)
        if self.fabric.is_global_zero:
            tensors = {f"now.{k}": v for k, v in self.now.items()}
            tensors |= {f"average.{k}": v for k, v in self.average.items()}
            tensors["random"] = torch.get_rng_state()
            for group in self.optimizer.param_groups:
                for name, parameter in zip(group["names"], group["params"], strict=True):
                    for moment in MOMENTS if self.optimizer.state.get(parameter) else ():
                        tensors[f"{moment}.{name}"] = self.optimizer.state[parameter][moment]
            save(self.folder, self.step, tensors, self._facts() | {"due": due}, self.beside)
        self.beside = None if due else self.step
        self.fabric.barrier()

    def _facts(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "frozen": self.frozen,
            "epoch": self.epoch,
            "scale": self.scale,
            "retries": self.retries,
            "micro": self.micro,
            "loss_sum": self.loss_sum,
            "first_loss": self.first_loss,
            "smooth": self.smooth,
            "seconds": self.seconds,
            "history": [asdict(row) for row in self.history],
            "notes": self.notes,
        }

    def find(self, due: bool = False) -> bool:
        """Go to the newest checkpoint; False when there is none.

        Args:
            due: not to one that only a stop has written.

        Raises:
            RunFolderError: it belongs to another run, or the processes see different folders.
        """
        found = load_newest(self.folder, self.beside if due else None)
        at = -1 if found is None else found.step
        steps = self.fabric.all_gather(torch.tensor(at, device=self.fabric.device)).flatten()
        if int(steps.min()) != int(steps.max()):
            raise RunFolderError(
                "The processes do not see the same checkpoints",
                where=self.folder,
                do="Choose a folder that all machines share with --out.",
            )
        if found is None:
            return False
        if found.facts["fingerprint"] != self.fingerprint:
            raise RunFolderError(
                "These checkpoints belong to a training of other data, start or recipe",
                where=self.folder,
                do="Repeat the settings of that run, or choose another folder with --out.",
            )
        self._wear(found)
        return True

    def back(self, afresh: bool = False) -> None:
        """Go back to the newest checkpoint, but keep what was learned on the way from there.

        Args:
            afresh: to the start: what diverged once more may have been lost at the checkpoint already.
        """
        kept = self.scale, self.retries, self.micro, self.notes
        self.find(due=True)
        if afresh:
            self.step = self.epoch = 0
            self.loss_sum, self.first_loss, self.smooth, self.history = 0.0, None, None, []
            put(self.now, self.start)
            put(self.average, self.start)
            self.optimizer.state.clear()
        self.scale, self.retries, self.micro, self.notes = kept

    def _wear(self, found: Checkpoint) -> None:
        facts = found.facts
        self.step = found.step
        self.beside = None if facts["due"] else found.step
        self.epoch, self.micro = int(facts["epoch"]), int(facts["micro"])
        self.scale, self.retries = float(facts["scale"]), int(facts["retries"])
        self.loss_sum, self.seconds = float(facts["loss_sum"]), float(facts["seconds"])
        self.first_loss, self.smooth = facts["first_loss"], facts["smooth"]
        self.history = [Row(**row) for row in facts["history"]]
        self.notes = list(facts["notes"])
        put(self.now, {k: found.tensors[f"now.{k}"] for k in self.now})
        put(self.average, {k: found.tensors[f"average.{k}"] for k in self.average})
        torch.set_rng_state(found.tensors["random"])
        self.prepared.zero_grad()
        self.optimizer.state.clear()
        for group in self.optimizer.param_groups:
            for name, parameter in zip(group["names"], group["params"], strict=True):
                if f"{MOMENTS[0]}.{name}" not in found.tensors:
                    continue  # before the first step there are none
                state = {
                    # Into the parameter's own memory format: files hold none.
                    moment: torch.empty_like(parameter).copy_(found.tensors[f"{moment}.{name}"])
                    for moment in MOMENTS
                }
                # Fused AdamW counts its steps where it computes.
                state["step"] = torch.tensor(float(self.step), device=parameter.device)
                self.optimizer.state[parameter] = state
        check_frozen(self.model, str(facts["frozen"]))


def _mixed_seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
