from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lessons
from headstart.backbone.surgery import pooled
from headstart.errors import InternalError, MachineError, RunFolderError
from headstart.train.augment import Augment
from headstart.train.checkpoint import load_newest
from headstart.train.finetune import Moment, open_fabric
from headstart.train.loop import _mixed_seed
from lessons import accuracy, digest_of, lesson, recipe, start, train
from toys import REPOSITORY


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that nothing interrupts."""
    return train(tmp_path_factory.mktemp("whole"))


class Interrupted(BaseException):
    """As sudden as a kill, for everything but the process."""


def interrupted_after(step: int) -> Any:
    def progress(moment: Moment) -> None:
        if moment.step >= step:
            raise Interrupted

    return progress


# -- learning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["finetune", "scratch"])
def test_training_learns(kind: str, tmp_path: Path) -> None:
    made = recipe(kind, epochs=8)
    tuned = train(tmp_path, made)
    assert tuned.score > 0.8 > tuned.start_score
    assert tuned.score == accuracy(tuned.logits, lessons.pictures()[1][-16:])
    assert [row.epoch for row in tuned.history] == list(range(1, 9))
    assert tuned.history[-1].loss < tuned.history[0].loss
    assert tuned.images_seen == 8 * 32 and not tuned.diverged


def test_the_result_computes_the_logits_it_tells(tmp_path: Path) -> None:
    model, told = start(), lesson()
    tuned = train(tmp_path, model=model, lesson=told)
    other = start(seed=5)
    other.network.load_state_dict(dict(tuned.state))
    pixels = torch.from_numpy(told.source.whole(told.valid)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        features = pooled(other.network, pixels / 127.5 - 1).numpy()
    np.testing.assert_allclose(tuned.head.logits(features), tuned.logits, atol=1e-5)


def test_without_a_validation_part_the_average_is_kept(tmp_path: Path) -> None:
    tuned = train(tmp_path, lesson=lesson(valid=0))
    assert (tuned.average, tuned.alpha) == ("average", 1.0)
    assert tuned.score is None and tuned.logits.shape == (0, 3)


def test_a_run_on_all_images_ends_in_the_mixture_that_another_run_chose(tmp_path: Path) -> None:
    runs = {}
    for end in (("last", 0.0), ("last", 0.5), ("last", 1.0)):
        told = replace(lesson(valid=0), keep=end)
        runs[end[1]] = train(tmp_path / f"{end[1]}", lesson=told)
        assert (runs[end[1]].average, runs[end[1]].alpha) == end
    name = "fc2.0.weight"
    middle = (runs[0.0].state[name] + runs[1.0].state[name]) / 2
    torch.testing.assert_close(runs[0.5].state[name], middle)


def test_gradients_of_small_passes_add_up_to_those_of_a_large_one(tmp_path: Path) -> None:
    # No dropout: it draws by pass.
    results = []
    for micro in (2, 3, 8):
        model = start()
        model.network.fc1[2].p = model.network.fc2[2].p = 0.0
        made = recipe(micro_batch=micro, norm_eval=True)
        results.append(train(tmp_path / str(micro), made, model=model))
    for other in results[1:]:
        for name, value in results[0].state.items():
            torch.testing.assert_close(other.state[name], value, atol=2e-4, rtol=2e-3)


def test_mixed_images_have_mixed_labels(tmp_path: Path) -> None:
    tuned = train(tmp_path, lesson=lesson(mix=True))
    assert all(0.1 < row.loss < 3 for row in tuned.history)
    views = lesson(mix=True).source.views(0, np.arange(6))
    assert views.partners is not None and views.shares is not None
    assert set(views.partners) <= set(range(32))


def test_the_live_line_tells_where_the_run_stands(tmp_path: Path) -> None:
    moments: list[Moment] = []
    train(tmp_path, progress=moments.append)
    assert moments[-1].step == moments[-1].steps == 8
    assert (moments[-1].epoch, moments[-1].epochs) == (2, 2)
    assert all(m.img_s > 0 and m.eta_s >= 0 for m in moments)
    assert moments[0].score is None and moments[-1].score is not None


def test_the_callers_generator_and_threads_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train(tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads


# -- frozen --------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_eval", [False, True])
def test_frozen_stages_keep_every_bit_through_a_resumed_run(
    norm_eval: bool, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in start().network.state_dict().items()}
    made = recipe("partial", through="conv2", norm_eval=norm_eval)
    with pytest.raises(Interrupted):
        train(tmp_path, made, progress=interrupted_after(5))
    tuned = train(tmp_path, made)
    for name, value in tuned.state.items():
        if name.startswith(("conv1", "conv2", "fc3")):
            assert torch.equal(value, before[name]), name
    assert not torch.equal(tuned.state["conv3.0.weight"], before["conv3.0.weight"])
    same = torch.equal(tuned.state["conv3.1.running_var"], before["conv3.1.running_var"])
    assert same == norm_eval


def test_a_frozen_stage_that_changes_stops_the_run(tmp_path: Path) -> None:
    model = start()

    def rude(_moment: Moment) -> None:
        model.network.conv1[1].running_mean.add_(1e-6)

    with pytest.raises(InternalError, match="frozen stage"):
        train(tmp_path, recipe("partial", through="conv2"), model=model, progress=rude)


# -- crashes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 3, 4, 5, 7, 8])
def test_an_interrupted_run_ends_as_if_nothing_had_happened(
    step: int, tmp_path: Path, whole: Any
) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, progress=interrupted_after(step))
    assert digest_of(train(tmp_path)) == digest_of(whole)


def test_a_run_that_is_over_is_not_trained_again(tmp_path: Path, whole: Any) -> None:
    train(tmp_path)
    steps: list[Moment] = []
    assert digest_of(train(tmp_path, progress=steps.append)) == digest_of(whole)
    assert steps == []


def test_how_often_is_saved_does_not_matter(tmp_path: Path, whole: Any) -> None:
    assert digest_of(train(tmp_path, every=1)) == digest_of(whole)


def test_a_damaged_checkpoint_costs_steps_and_not_the_result(tmp_path: Path, whole: Any) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, progress=interrupted_after(8))
    newest = sorted(tmp_path.glob("*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="is damaged"):
        again = train(tmp_path)
    assert digest_of(again) == digest_of(whole)


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_stop_is_answered_between_two_steps(
    number: int, kind: type[BaseException], tmp_path: Path, whole: Any
) -> None:
    def raised(*_: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, raised)
    steps: list[int] = []

    def progress(moment: Moment) -> None:
        steps.append(moment.step)
        if len(steps) == 1:
            signal.raise_signal(number)

    try:
        with pytest.raises(kind):
            train(tmp_path, progress=progress)
        assert signal.getsignal(signal.SIGTERM) is raised
    finally:
        signal.signal(signal.SIGTERM, before)
    found = load_newest(tmp_path)
    assert found is not None and found.step == steps[-1] == steps[0] + 1
    assert digest_of(train(tmp_path)) == digest_of(whole)


def test_checkpoints_of_another_training_are_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(RunFolderError, match="other data, start or recipe"):
        train(tmp_path, recipe(rate=1e-4))
    with pytest.raises(RunFolderError, match="other data, start or recipe"):
        train(tmp_path, model=start(seed=2))


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """SIGKILL at a write, a flush, a rename and at random moments; see benchmarks/kills.py."""
    script = REPOSITORY / "benchmarks" / "kills.py"
    command = [sys.executable, "-W", "error", str(script), "--points", "6"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert "6 of 6" in done.stdout, done.stdout + done.stderr


# -- what goes wrong -----------------------------------------------------------------------------


def test_a_hopeless_rate_ends_in_the_start_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    model = start()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    tuned = train(tmp_path, recipe(rate=1e6, clip=1e9, pull=0.0), model=model, say=said.append)
    assert tuned.diverged and (tuned.average, tuned.alpha) == ("start", 0.0)
    assert all(torch.equal(value, before[name]) for name, value in tuned.state.items())
    assert len(tuned.notes) == 3 and "given up" in said[-1]


def test_one_bad_batch_costs_rate_and_not_the_run(tmp_path: Path) -> None:
    model = start()
    calls = {"left": 1}

    def spoil(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        if model.training and load_newest(tmp_path).step >= 3 and calls["left"]:  # type: ignore[union-attr]
            calls["left"] = 0
            return output * torch.nan
        return None

    model.head.register_forward_hook(spoil)
    tuned = train(tmp_path, model=model)
    assert not tuned.diverged
    assert len(tuned.notes) == 1 and "going on from step 3 with 0.3 of the rate" in tuned.notes[0]
    assert all(torch.isfinite(v).all() for v in tuned.state.values() if v.is_floating_point())


def test_weights_that_one_step_has_thrown_off_are_not_gone_on_with(tmp_path: Path) -> None:
    """A checkpoint after every step, the first of which is far too long at the whole rate."""
    said: list[str] = []
    model = start()
    model.head.register_forward_hook(
        lambda _m, _i, y: y * torch.nan if model.training and _moved(model) > 0.05 else None
    )
    tuned = train(tmp_path, recipe(rate=0.2, pull=0.0), model=model, say=said.append, every=1)
    assert "from step 1" in said[0] and "from step 0" in said[1]
    assert not tuned.diverged and len(tuned.notes) == 2


def _moved(model: Any) -> float:
    now, before = (m.network.conv3[0].weight.detach() for m in (model, start()))
    return float((now - before).abs().max())


def test_a_run_that_was_stopped_and_then_diverges_ends_like_one_that_was_not(
    tmp_path: Path,
) -> None:
    """Checkpoints are due after steps 3, 4 and 6; the stop comes after step 5, the bad batch then."""

    def spoiled() -> Any:
        model, calls = start(), {"left": 1}

        def spoil(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
            if model.training and torch.initial_seed() == _mixed_seed(0, 5, 0) and calls["left"]:
                calls["left"] = 0
                return output * torch.nan
            return None

        model.head.register_forward_hook(spoil)
        return model

    asked: list[bool] = []

    def stop(_module: Any, _inputs: Any) -> None:
        if torch.initial_seed() == _mixed_seed(0, 4, 0) and not asked:
            asked.append(True)
            signal.raise_signal(signal.SIGINT)

    stopped = start()
    stopped.head.register_forward_pre_hook(stop)
    whole = train(tmp_path / "whole", model=spoiled())
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", model=stopped)
    found = load_newest(tmp_path / "stopped")
    assert found is not None and found.step == 5
    again = train(tmp_path / "stopped", model=spoiled())
    assert [len(whole.notes), len(again.notes)] == [1, 1]
    assert "going on from step 4" in whole.notes[0] and whole.notes == again.notes
    assert digest_of(again) == digest_of(whole)


def test_a_stop_while_mixtures_are_tried_is_answered(tmp_path: Path, whole: Any) -> None:
    tried: list[int] = []
    told = lesson()

    def score(logits: Any, labels: Any) -> float:
        tried.append(len(labels))
        if len(tried) == 3:  # after those of two epochs
            signal.raise_signal(signal.SIGINT)
        return accuracy(logits, labels)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, lesson=replace(told, score=score))
    assert digest_of(train(tmp_path)) == digest_of(whole)


def test_out_of_memory_halves_the_passes_and_says_so(tmp_path: Path) -> None:
    model = start()

    def small(_module: Any, inputs: Any) -> None:
        if model.training and len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.head.register_forward_pre_hook(small)
    tuned = train(tmp_path, recipe(micro_batch=8), model=model)
    assert tuned.notes == tuple(f"out of memory: going on with {k} images at once" for k in (4, 2))
    assert tuned.images_seen == 64


def test_no_memory_for_one_image_is_an_error(tmp_path: Path) -> None:
    model = start()

    def none(_module: Any, _inputs: Any) -> None:
        if model.training:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    model.head.register_forward_pre_hook(none)
    with pytest.raises(MachineError, match="--size"):
        train(tmp_path, model=model)


# -- several processes ---------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_end_as_one_does_and_write_once(tmp_path: Path) -> None:
    """Same batches, BatchNorm over both: float32 sums in another order, hence the tolerance."""
    script = str(REPOSITORY / "tests" / "lessons.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    results = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        launcher = [sys.executable]
        if count == 2:
            launcher += ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
        done = subprocess.run(
            [*launcher, script, str(folder)],
            capture_output=True,
            text=True,
            timeout=300,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert f"process {count - 1} of {count}" in done.stdout
        results.append(np.load(folder / "tuned.npz"))
        assert len(list(folder.glob("step-*.json"))) == 2
    one, two = results
    assert float(one["score"]) == float(two["score"])
    np.testing.assert_allclose(two["logits"], one["logits"], atol=2e-3)
    np.testing.assert_allclose(two["losses"], one["losses"], atol=1e-4)
    for name in one.files:
        if name.endswith("running_var"):
            np.testing.assert_allclose(two[name], one[name], rtol=1e-4)


def test_one_process_is_told_from_its_environment() -> None:
    fabric = open_fabric("cpu")
    assert (fabric.world_size, fabric.is_global_zero) == (1, True)


def test_views_are_made_as_the_recipe_says() -> None:
    plain = lesson(Augment())
    np.testing.assert_array_equal(
        plain.source.views(0, np.arange(4)).inputs, plain.source.whole(np.arange(4))
    )


def test_a_mixture_that_others_chose_is_kept_also_with_a_validation_part(tmp_path: Path) -> None:
    tuned = train(tmp_path, lesson=replace(lesson(), keep=("last", 0.25)))
    assert (tuned.average, tuned.alpha) == ("last", 0.25)
    np.testing.assert_array_equal(tuned.logits, tuned.trials["last", 0.25])
