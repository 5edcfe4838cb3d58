from __future__ import annotations

import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headstart.backbone import load as loading
from headstart.backbone.load import (
    EMBEDDED_SHA256,
    embedded_file,
    find_weights,
    load,
    network_of,
    preprocess_of,
    read_state,
    sha256_of,
)
from headstart.errors import ArgumentError, WeightsError
from headstart.settings import DEFAULT_BACKBONE
from networks import random_network, random_weights


class Canary:
    """Unpickling it would touch a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_the_embedded_weights_load_without_a_hub() -> None:
    found = load(DEFAULT_BACKBONE)
    assert found.weights_sha256 == EMBEDDED_SHA256
    assert not found.network.training
    assert not any(p.requires_grad for p in found.network.parameters())
    pre = found.preprocess
    assert (pre.size_px, pre.resize_px, pre.mean, pre.std) == (224, 256, (0.5,) * 3, (0.5,) * 3)
    assert found.licence == "apache-2.0"


def test_damaged_embedded_weights_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = bytearray(embedded_file().read_bytes())
    damaged[len(damaged) // 2] ^= 1
    copy = tmp_path / "damaged.pth"
    copy.write_bytes(damaged)
    monkeypatch.setattr(loading, "embedded_file", lambda: copy)
    monkeypatch.setattr(loading, "read_state", lambda _path: pytest.fail("it was read"))
    with pytest.raises(WeightsError, match=r"checksum.*damaged\.pth"):
        load(DEFAULT_BACKBONE)


def test_a_pickle_with_code_is_refused_and_never_run(tmp_path: Path) -> None:
    import torch

    canary = tmp_path / "canary"
    plain, zipped = tmp_path / "plain.pth", tmp_path / "zipped.pth"
    plain.write_bytes(pickle.dumps({"weight": Canary(canary)}))
    torch.save({"weight": Canary(canary)}, zipped)
    for path in (plain, zipped):
        with pytest.raises(WeightsError, match="code is never run"):
            read_state(path)
    assert not canary.exists()


def test_what_is_not_weights_is_one_clear_error(tmp_path: Path) -> None:
    import torch

    rng = np.random.default_rng(0)
    whole = random_weights("test_resnet", tmp_path / "whole.pth").read_bytes()
    safe = random_weights("test_resnet", tmp_path / "safe.safetensors").read_bytes()
    torch.save(["a", "list"], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    contents = [b"", b"\x80", b"PK\x03\x04", whole[:5000], whole[:-50], b"\x80\x02}q\x00(X\x05"]
    contents += [rng.bytes(400) for _ in range(40)]
    files = [tmp_path / "list.pth", tmp_path / "numbers.pth"]
    for i, content in enumerate([*contents, safe[:100], safe[:-1], b"\xff" * 9]):
        for suffix in (".pth", ".safetensors"):
            path = tmp_path / f"{i}{suffix}"
            path.write_bytes(content)
            files.append(path)
    for path in files:
        with pytest.raises(WeightsError, match="cannot be read as weights"):
            read_state(path)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_weights_of_another_network_load_from_a_file(name: str, tmp_path: Path) -> None:
    import torch

    network = random_network(name)
    for suffix in (".safetensors", ".pth"):
        path = random_weights(name, tmp_path / f"mine{suffix}")
        found = load(name, path)
        assert found.source == f"file mine{suffix}"
        assert found.weights_sha256 == sha256_of(path)
        pixels = torch.rand(1, 3, 64, 64)
        with torch.inference_mode():
            assert torch.equal(found.network(pixels), network(pixels))
    again = network_of(name, tmp_path / "mine.safetensors", 7)
    with torch.inference_mode():
        assert torch.equal(again(pixels), network(pixels))


def test_wrapped_and_older_state_dicts_are_understood(tmp_path: Path) -> None:
    import torch

    state = random_network("test_resnet").state_dict()
    older = {f"module.{k}": v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / "trained.pth"
    torch.save({"epoch": 3, "state_dict": older}, path)
    assert torch.equal(load("test_resnet", path).network.fc.weight, state["fc.weight"])


def test_torchvisions_own_names_are_translated(tmp_path: Path) -> None:
    import torch
    from torchvision.models import densenet121

    torch.manual_seed(0)
    theirs = densenet121(weights=None).eval()
    path = tmp_path / "theirs.pth"
    torch.save(theirs.state_dict(), path)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(load("densenet121", path).network(pixels), theirs(pixels), atol=1e-5)


def test_another_networks_weights_are_one_clear_error(tmp_path: Path) -> None:
    path = random_weights("test_resnet", tmp_path / "w.safetensors")
    for name in ("test_efficientnet", "test_convnext", DEFAULT_BACKBONE):
        with pytest.raises(WeightsError, match=rf"do not fit {name}.*w\.safetensors.*--backbone"):
            load(name, path)


def test_weights_with_a_tensor_of_another_shape_are_refused(tmp_path: Path) -> None:
    import torch

    state = random_network("test_resnet").state_dict()
    state["conv1.0.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"1 of another shape \(first: conv1\.0\.weight\)"):
        load("test_resnet", tmp_path / "w.pth")


def test_the_embedded_files_order_is_used_for_that_file_only(tmp_path: Path) -> None:
    copy = shutil.copy(embedded_file(), tmp_path / "copy.pth")
    assert load(DEFAULT_BACKBONE, Path(copy)).weights_sha256 == EMBEDDED_SHA256
    with pytest.raises(WeightsError, match=DEFAULT_BACKBONE):
        load("test_resnet", Path(copy))
    # The same tensors in another file are a stranger's: their names do not fit.
    import torch

    torch.save(read_state(embedded_file()), tmp_path / "again.pth")
    with pytest.raises(WeightsError, match="do not fit"):
        load("test_efficientnet", tmp_path / "again.pth")


def test_an_unknown_name_or_tag_offers_the_nearest() -> None:
    with pytest.raises(ArgumentError, match="Did you mean tf_efficientnet_lite0"):
        load("tf_eficientnet_lite0")
    with pytest.raises(ArgumentError, match=r"Did you mean resnet18\.a1_in1k"):
        load("resnet18.a1_in1")
    with pytest.raises(ArgumentError, match="no backbone of this name"):
        find_weights("zzzzzz", None)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nothing\.pth"):
        find_weights(DEFAULT_BACKBONE, tmp_path / "nothing.pth")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and a hub that nobody can reach."""
    from huggingface_hub import constants

    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return folder


def hub_entry(hub: Path, repository: str, write: Callable[[Path], object]) -> Path:
    """A file as the hub's library stores it: named by its checksum, with a link to it."""
    entry = hub / f"models--{repository.replace('/', '--')}"
    (entry / "blobs").mkdir(parents=True)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text("0" * 40)
    snapshot = entry / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    fresh = entry / "blobs" / "fresh.safetensors"
    write(fresh)
    blob = fresh.rename(entry / "blobs" / sha256_of(fresh))
    (snapshot / "model.safetensors").symlink_to(os.path.relpath(blob, snapshot))
    return blob


def test_weights_in_the_hub_cache_load_without_a_network(hub: Path) -> None:
    hub_entry(hub, "timm/test_resnet.r160_in1k", lambda path: random_weights("test_resnet", path))
    found = load("test_resnet")
    assert found.source == "hub cache of timm/test_resnet.r160_in1k"
    assert load("test_resnet.r160_in1k").weights_sha256 == found.weights_sha256


def test_damaged_weights_in_the_hub_cache_are_refused(hub: Path) -> None:
    blob = hub_entry(
        hub, "timm/test_resnet.r160_in1k", lambda path: random_weights("test_resnet", path)
    )
    damaged = bytearray(blob.read_bytes())
    damaged[-1] ^= 1
    blob.write_bytes(damaged)
    with pytest.raises(WeightsError, match="checksum"):
        load("test_resnet")


def test_without_a_network_the_file_the_place_and_the_flag_are_named_quickly(hub: Path) -> None:
    began = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        find_weights("test_resnet", None)
    assert time.perf_counter() - began < 10
    message = str(caught.value)
    repository = "timm/test_resnet.r160_in1k"
    assert f"https://huggingface.co/{repository}/resolve/main/model.safetensors" in message
    assert "--weights model.safetensors" in message
    with pytest.raises(WeightsError, match="--weights"):
        find_weights("test_resnet", None, download=False)


def test_a_network_without_published_weights_says_so() -> None:
    with pytest.raises(WeightsError, match="No weights are published for test_vit4"):
        find_weights("test_vit4", None)


def test_another_size_keeps_the_share_of_the_crop() -> None:
    config = {
        "input_size": (3, 224, 224),
        "crop_pct": 0.875,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    assert preprocess_of(config, None).resize_px == 256
    assert preprocess_of(config, 128).resize_px == round(128 / 0.875)
    assert preprocess_of(config | {"crop_pct": 1.0}, 100).resize_px == 100
