from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from headstart.backbone import pretrain as pretraining
from headstart.backbone.demo_net import CONFIG, DemoNet
from headstart.backbone.load import load, preprocess_of
from headstart.backbone.pretrain import (
    main,
    normalised,
    pretrain,
    read_images,
    score,
    source_statistics,
    train,
)
from headstart.backbone.stages import Taps
from headstart.errors import ArgumentError, DataError, MachineError, WeightsError
from toys import draw_photos

PREPROCESS = preprocess_of(CONFIG, None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three colours; the fourth file of one class is no image."""
    draw_photos(tmp_path / "source", per_class=30, side_px=32)
    (tmp_path / "source" / "red" / "broken.png").write_bytes(b"no image")
    return tmp_path / "source"


def test_it_learns_to_tell_colours_apart_and_its_file_is_a_backbone(
    source: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    out = tmp_path / "demo.safetensors"
    done = pretrain(source, out, epochs=4, tell=lines.append)
    assert done.classes == ("blue", "green", "red")
    assert done.n_train + done.n_test == 90
    assert done.refused == ("red/broken.png",)
    assert done.accuracy == 1.0
    assert len(lines) == 4
    network = load("demo", out).network
    images = read_images(source, PREPROCESS)
    held = images.is_test
    assert score(network, normalised(images.pixels[held]), images.labels[held]) == 1.0


def test_the_file_holds_mean_and_variance_of_every_tap_over_the_source(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "demo.safetensors"
    pretrain(source, out, epochs=1)
    images = read_images(source, PREPROCESS)
    taps = Taps(load("demo", out).network, CONFIG["mean"], CONFIG["std"], None).eval()
    with torch.inference_mode():
        outputs = taps(images.pixels[~images.is_test])
    stored = source_statistics(out)
    assert set(stored) == set(taps.names)
    for name, output in zip(taps.names, outputs, strict=True):
        mean, variance = stored[name]
        assert np.allclose(mean, output.mean(0), atol=1e-4)
        assert np.allclose(variance, output.var(0, correction=0), atol=1e-4)


def test_equal_seeds_end_in_equal_files_and_others_do_not(source: Path, tmp_path: Path) -> None:
    files = []
    for i, seed in enumerate((0, 0, 1)):
        torch.manual_seed(i)  # what the caller draws from must not matter
        out = tmp_path / f"{i}.safetensors"
        pretrain(source, out, epochs=1, seed=seed)
        files.append(out.read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_training_leaves_the_callers_random_numbers_alone() -> None:
    network, pixels = DemoNet(2), torch.randn(6, 3, 32, 32)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    list(train(network, pixels, torch.tensor([0, 1] * 3), epochs=1))
    assert torch.equal(torch.rand(3), expected)
    assert not network.training


def test_only_what_requires_a_gradient_learns() -> None:
    network, pixels = DemoNet(2), torch.randn(6, 3, 32, 32)
    network.conv1.requires_grad_(False)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    list(train(network, pixels, torch.tensor([0, 1] * 3), epochs=1))
    for name, value in network.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith("conv1"), name


@pytest.mark.parametrize("flip", [False, True])
def test_a_view_is_the_image_moved_and_perhaps_mirrored(flip: bool) -> None:
    torch.manual_seed(0)
    reach = pretraining.SHIFT_PX
    # Every pixel holds its own place, so a view tells where it came from.
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    image = torch.stack([rows, columns, torch.zeros(32, 32)])
    mirrored = 0
    for view in pretraining._view(image.repeat(64, 1, 1, 1), flip):
        inner = view[:, reach:-reach, reach:-reach]  # untouched by the rim
        down = inner[0, :, 0] - torch.arange(reach, 32.0 - reach)
        assert len(down.unique()) == 1 and down.abs().max() <= reach
        right = inner[1, 0].diff().unique()
        assert len(right) == 1 and right.abs() == 1
        mirrored += int(right.item() == -1)
    assert 16 < mirrored < 48 if flip else mirrored == 0


def test_a_last_batch_of_one_image_does_not_stop_batchnorm() -> None:
    pixels, labels = torch.randn(5, 3, 32, 32), torch.tensor([0, 1, 0, 1, 0])
    losses = [loss for _, loss in train(DemoNet(2), pixels, labels, epochs=2, batch=4)]
    assert np.isfinite(losses).all()


def test_the_folders_own_test_part_is_the_one_that_is_scored(tmp_path: Path) -> None:
    draw_photos(tmp_path / "data" / "train", per_class=5, side_px=32)
    draw_photos(tmp_path / "data" / "test", per_class=3, side_px=32, seed=1)
    images = read_images(tmp_path / "data", PREPROCESS)
    assert (int((~images.is_test).sum()), int(images.is_test.sum())) == (15, 9)


def test_copies_of_one_file_lie_on_one_side(tmp_path: Path) -> None:
    source = draw_photos(tmp_path / "p", per_class=25, side_px=32)
    for path in sorted(source.rglob("*.png")):
        path.with_name(f"copy_{path.name}").write_bytes(path.read_bytes())
    images = read_images(source, PREPROCESS)
    sides: dict[bytes, set[bool]] = {}
    for pixels, test in zip(images.pixels, images.is_test, strict=True):
        sides.setdefault(pixels.numpy().tobytes(), set()).add(bool(test))
    assert len(sides) == 75
    assert all(len(side) == 1 for side in sides.values())
    assert {next(iter(side)) for side in sides.values()} == {False, True}


def test_too_few_images_are_an_error(tmp_path: Path) -> None:
    draw_photos(tmp_path / "few", per_class=1)
    with pytest.raises(DataError, match="too few"):
        pretrain(tmp_path / "few", tmp_path / "demo.safetensors")


@pytest.mark.parametrize(("name", "epochs"), [("demo.pth", 1), ("demo.safetensors", 0)])
def test_what_cannot_be_done_is_refused_before_anything_is_read(
    tmp_path: Path, name: str, epochs: int
) -> None:
    with pytest.raises(ArgumentError, match=r"safetensors"):
        pretrain(tmp_path / "missing", tmp_path / name, epochs=epochs)


def test_a_file_without_statistics_says_so(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(DemoNet(2).state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(WeightsError, match="holds no statistics"):
        source_statistics(tmp_path / "plain.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    with pytest.raises(WeightsError, match="cannot be read"):
        source_statistics(tmp_path / "noise.safetensors")


def test_the_command_line_tells_what_was_reached(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo.safetensors"
    assert main(["--data", str(source), "--out", str(out), "--epochs", "1", "--no-flip"]) == 0
    said = capsys.readouterr()
    assert "3 classes" in said.out
    assert f"--weights {out}" in said.out
    assert "red/broken.png" in said.err
    from safetensors import safe_open

    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()["classes"]) == ["blue", "green", "red"]


def test_the_command_line_ends_with_a_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo.safetensors"
    assert main(["--data", str(tmp_path / "missing"), "--out", str(out)]) == 2
    assert "missing" in capsys.readouterr().err
    assert not out.exists()


def test_a_full_disk_leaves_the_old_file(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo.safetensors"
    out.write_bytes(b"old")

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("headstart.files.os.fsync", full)
    with pytest.raises(MachineError, match="disk is full"):
        pretrain(source, out, epochs=1)
    assert out.read_bytes() == b"old"
