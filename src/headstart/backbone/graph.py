"""The tap graph: a backbone as one ONNX file that yields the features of every stage.

It is exported once per (weights, input size) by a child process that may import torch, checked
there against torch on real images, and kept in the cache. Everything after that runs without torch.

S stages, D width of one stage's features.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.load import EMBEDDED_SHA256, find_weights
from headstart.data.images import Preprocess
from headstart.errors import HeadstartError, InternalError, WeightsError, from_os
from headstart.run import atomic_write, make_folder, sync_folder
from headstart.settings import DEFAULT_BACKBONE, cache_dir

GRAPH_VERSION = 1
"""Raised whenever the export changes what a graph computes; old caches are then not used."""
HEAD = "head"
EXPORT_TIMEOUT_S = 900
MARKER = "headstart-error:"


@dataclass(frozen=True, slots=True)
class StageInfo:
    """One stage as stored beside the graph; see `backbone.stages.Stage`."""

    name: str
    width: int
    side_px: int
    parameters: int
    macs: int
    keeps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TapGraph:
    """A backbone ready to run without torch."""

    folder: Path
    key: str
    name: str
    stages: tuple[StageInfo, ...]
    preprocess: Preprocess
    has_norm: bool
    weights_sha256: str
    source: str
    licence: str
    classifier: str
    source_classes: int
    parity: float
    """largest difference to torch on real images, relative to the spread of the outputs"""

    @property
    def onnx(self) -> Path:
        """The graph's file."""
        return self.folder / "graph.onnx"

    @property
    def weights(self) -> Path:
        """All weights of the backbone, with timm's names."""
        return self.folder / "weights.safetensors"

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Stages in order; the last one is the head."""
        return tuple(stage.name for stage in self.stages)

    @property
    def widths(self) -> tuple[int, ...]:
        """D of every output: the stages, then mean and square of the last norm's input."""
        norm = (self.norm_channels(),) * 2 if self.has_norm else ()
        return (*(stage.width for stage in self.stages), *norm)

    def stage(self, name: str) -> StageInfo:
        """A stage by its name."""
        return self.stages[self.stage_names.index(name)]

    def norm_channels(self) -> int:
        """Channels of the last BatchNorm."""
        return len(self.norm_statistics()[0])

    def norm_statistics(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and variance over the source that the last BatchNorm stores; both [D]."""
        from safetensors.numpy import load_file

        stored = load_file(self.folder / "norm.safetensors")
        return stored["mean"], stored["variance"]


def tap_graph(
    name: str, weights: Path | None, size_px: int | None, images: Sequence[Path]
) -> TapGraph:
    """The tap graph of a backbone, from the cache or exported now.

    Args:
        images: some real images on which a new graph is compared with torch.

    Raises:
        WeightsError, ArgumentError: see `backbone.load`. InternalError: the graph does not compute
        what torch computes.
    """
    alias = _alias(name, weights, size_px)
    folder = alias.parent
    if alias.is_file():
        known = folder / alias.read_text(encoding="utf-8")
        if (known / "graph.json").is_file():
            return read_graph(known)
    make_folder(folder)
    request = {
        "name": name,
        "weights": None if weights is None else str(weights.resolve()),
        "size_px": size_px,
        "images": [str(path) for path in images],
    }
    staging = Path(tempfile.mkdtemp(prefix=".export-", dir=folder))
    try:
        _export_in_child({**request, "folder": str(staging)})
        key = read_graph(staging).key
        # A rename is atomic; when another process was faster, its equal graph is used.
        with contextlib.suppress(OSError):
            staging.rename(folder / key)
        sync_folder(folder)
        atomic_write(alias, key)
        return read_graph(folder / key)
    except OSError as cause:
        raise from_os(cause, "Could not store the exported network", folder) from cause
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def read_graph(folder: Path) -> TapGraph:
    """Read a stored graph's description."""
    stored = json.loads((folder / "graph.json").read_text(encoding="utf-8"))
    stages = tuple(StageInfo(**{**s, "keeps": tuple(s["keeps"])}) for s in stored.pop("stages"))
    pre = stored.pop("preprocess")
    preprocess = Preprocess(**{**pre, "mean": tuple(pre["mean"]), "std": tuple(pre["std"])})
    return TapGraph(folder=folder, stages=stages, preprocess=preprocess, **stored)


def graph_key(name: str, weights_sha256: str, size_px: int) -> str:
    """Folder name of a graph; changes with whatever changes its numbers."""
    text = f"{GRAPH_VERSION}|{name}|{weights_sha256}|{size_px}"
    short = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    return f"{name.replace('/', '_')}-{size_px}-{short}"


def to_json(graph: TapGraph) -> dict[str, Any]:
    """The stored description, without the folder."""
    stored = asdict(replace(graph, folder=Path()))
    stored.pop("folder")
    return stored


def _alias(name: str, weights: Path | None, size_px: int | None) -> Path:
    """A small file that holds the key of the graph for a request, so that no torch is needed.

    The request for a hub network names no checksum; its alias is written when it is first loaded.
    """
    if weights is not None:
        which = find_weights(name, weights).sha256
    else:
        which = EMBEDDED_SHA256 if name == DEFAULT_BACKBONE else "hub"
    text = f"{GRAPH_VERSION}|{name}|{which}|{size_px or 'own size'}"
    short = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    return cache_dir() / "graphs" / f"alias-{short}"


def _export_in_child(request: dict[str, Any]) -> None:
    """Run the exporter; its known errors come back as the same errors here."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "headstart.backbone.export_graph"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=EXPORT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as cause:
        raise InternalError(
            "Exporting the network took too long", received=f"{EXPORT_TIMEOUT_S} s"
        ) from cause
    if done.returncode == 0:
        return
    for line in done.stderr.splitlines():
        if line.startswith(MARKER):
            raise _revive(json.loads(line.removeprefix(MARKER)))
    tail = " | ".join(done.stderr.strip().splitlines()[-3:])
    raise InternalError("Exporting the network failed", received=tail or f"exit {done.returncode}")


def _revive(fields: dict[str, Any]) -> HeadstartError:
    from headstart import errors

    kind = getattr(errors, str(fields.pop("kind")), WeightsError)
    error = kind(
        fields["what"], where=fields["where"], received=fields["received"], do=fields["do"]
    )
    assert isinstance(error, HeadstartError)
    return error
