"""Started by torchrun, one process does the job and the others take part in the training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headstart.run import read_json
from headstart.train import team
from runs import bright_or_dark


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun's gloo is not built there")
def test_two_processes_train_together_and_one_of_them_writes_the_run(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from headstart.backbone.demo_net import DemoNet

    torch.manual_seed(0)
    save_file(DemoNet(4).state_dict(), tmp_path / "demo.safetensors")
    data = bright_or_dark(tmp_path / "shades", {"dark": 30, "light": 30})
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "headstart", "fit", str(data), "--case", "3", "--epochs", "6", "--no-report"]
    command += ["--backbone", "demo", "--weights", str(tmp_path / "demo.safetensors")]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert read_json(run / "run.json")["status"] == "done"
    assert len(read_json(run / "training.json")["epochs"]) == 6
    scores = {m["name"]: m["value"] for m in read_json(run / "evaluation.json")["metrics"]}
    assert scores["accuracy"] == 1.0
    assert done.stderr.count("once more, from all") == 1  # told by one of them
    assert not (run / "training").exists()


def test_a_process_that_torchrun_did_not_start_has_no_team(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")  # left behind by something else
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert team.team() is None and team.beside() == 1
    with team.leading():
        pass
