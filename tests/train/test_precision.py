"""What training in bfloat16 keeps of training in float32: the answers as served, the bits after a stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from headstart.backbone.surgery import pooled
from headstart.train.finetune import Moment, open_fabric
from lessons import digest_of, lesson, recipe, start, train


class Interrupted(BaseException):
    """As sudden as a kill, for everything but the process."""


def test_the_hardware_decides_unless_the_caller_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for native, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        assert open_fabric("cpu")._precision.precision == expected
        assert open_fabric("cpu", precision="32-true")._precision.precision == "32-true"


def test_logits_are_those_that_the_weights_give_in_full_precision(tmp_path: Path) -> None:
    told = lesson()
    tuned = train(
        tmp_path, recipe(epochs=8), fabric=open_fabric("cpu", precision="bf16-mixed"), lesson=told
    )
    other = start(seed=5)
    assert all(value.dtype != torch.bfloat16 for value in tuned.state.values())
    other.network.load_state_dict(dict(tuned.state))
    pixels = torch.from_numpy(told.source.whole(told.valid)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        features = pooled(other.network, pixels / 127.5 - 1).numpy()
    np.testing.assert_allclose(tuned.head.logits(features), tuned.logits, atol=1e-5)
    assert tuned.score > 0.8 > tuned.start_score


def test_a_run_that_is_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    def stop(moment: Moment) -> None:
        if moment.step >= 5:
            raise Interrupted

    fabric = open_fabric("cpu", precision="bf16-mixed")
    straight = train(tmp_path / "a", fabric=fabric)
    with pytest.raises(Interrupted):
        train(tmp_path / "b", fabric=fabric, progress=stop)
    assert digest_of(train(tmp_path / "b", fabric=fabric)) == digest_of(straight)
    assert digest_of(train(tmp_path / "c")) != digest_of(straight)  # full precision is another run
