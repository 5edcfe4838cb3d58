"""The tap graph: a backbone as one ONNX file that yields the features of every stage.

It is exported once per (weights, input size) by a child process that may import torch, checked
there against torch on real images, and kept in the cache. Everything after that runs without torch.

S stages, D width of one stage's features.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.load import EMBEDDED_SHA256, find_weights, sha256_of
from headstart.data.images import Preprocess
from headstart.errors import HeadstartError, InternalError, WeightsError, from_os
from headstart.run import atomic_write, sync_folder
from headstart.settings import DEFAULT_BACKBONE, cache_dir

GRAPH_VERSION = 2
"""Raised whenever the export changes what a graph computes; old caches are then not used."""
HEAD = "head"
EXPORT_TIMEOUT_S = 900
SPREAD = "/std"
"""ends the name of the output that holds a stage's standard deviations, as in `b3/std`; timm names
stages after attributes, which have no slash"""
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
    def spread_names(self) -> tuple[str, ...]:
        """Outputs with the standard deviations over positions, one per stage that has positions."""
        return tuple(f"{stage.name}{SPREAD}" for stage in self.stages if stage.side_px > 1)

    @property
    def names(self) -> tuple[str, ...]:
        """All outputs: means by stage, deviations by stage, mean and square of the last norm's input."""
        norm = ("norm_mean", "norm_square") if self.has_norm else ()
        return (*self.stage_names, *self.spread_names, *norm)

    @property
    def widths(self) -> tuple[int, ...]:
        """D of every output, in the order of `names`."""
        norm = (self.norm_channels(),) * 2 if self.has_norm else ()
        stages = (self.stage(name).width for name in (*self.stage_names, *self.spread_names))
        return (*stages, *norm)

    def stage(self, name: str) -> StageInfo:
        """The stage of an output: `b3` and `b3/std` are both of stage b3."""
        return self.stages[self.stage_names.index(name.removesuffix(SPREAD))]

    def deepest(self, outputs: Sequence[str]) -> StageInfo:
        """The last stage that is needed for some outputs."""
        return max((self.stage(name) for name in outputs), key=self.stages.index)

    def norm_channels(self) -> int:
        """Channels of the last BatchNorm."""
        return len(self.norm_statistics()[0])

    def norm_statistics(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and variance over the source that the last BatchNorm stores; both [D]."""
        from safetensors.numpy import load_file

        stored = load_file(self.folder / "norm.safetensors")
        return stored["mean"], stored["variance"]


def tap_graph(
    name: str,
    weights: Path | None,
    size_px: int | None,
    images: Sequence[Path],
    place: Path | None = None,
) -> TapGraph:
    """The tap graph of a backbone, from the cache or exported now.

    Args:
        images: some real images on which a new graph is compared with torch.
        place: folder to keep it in; default: the cache.

    Raises:
        WeightsError, ArgumentError: see `backbone.load`. InternalError: the graph does not compute
        what torch computes.
    """
    alias = _alias(name, weights, size_px)
    folder = place or alias.parent
    alias = folder / alias.name
    with contextlib.suppress(OSError, ValueError):
        if (known := _intact(folder / alias.read_text(encoding="utf-8"))) is not None:
            return known
    request = {
        "name": name,
        "weights": None if weights is None else str(weights.resolve()),
        "size_px": size_px,
        "images": [str(path) for path in images],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".export-", dir=folder, ignore_cleanup_errors=True
        ) as staging:
            fresh = Path(staging) / "graph"
            fresh.mkdir()
            _export_in_child({**request, "folder": str(fresh)})
            graph = _publish(fresh, folder)
        sync_folder(folder)
    except OSError as cause:
        raise cache_error(cause, "Could not store the exported network", folder) from cause
    atomic_write(alias, graph.key)
    return graph


def _publish(fresh: Path, folder: Path) -> TapGraph:
    """Move a whole graph to its place in one step; an equal one that is there already stays."""
    key = read_graph(fresh).key
    place, graph = folder / key, replace(read_graph(fresh), folder=folder / key)
    for attempt in range(4):
        try:
            fresh.rename(place)
            return graph
        except OSError:
            if attempt == 3:
                raise
        # When another process was faster, its equal graph is used; a damaged one makes room.
        if (there := _intact(place)) is not None:
            return there
        with contextlib.suppress(FileNotFoundError):  # another process was faster at that, too
            place.rename(fresh.with_name(f"damaged-{attempt}"))  # goes with the staging folder
    raise AssertionError  # pragma: no cover


def _intact(folder: Path) -> TapGraph | None:
    """A stored graph all of whose files are as they were written, or None."""
    try:
        files = json.loads((folder / "graph.json").read_text(encoding="utf-8"))["files"]
        if all(sha256_of(folder / name) == checksum for name, checksum in files.items()):
            return read_graph(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def cache_error(cause: OSError, what: str, where: Path) -> HeadstartError:
    """The error of a failed write to the cache, with the advice that fits it."""
    error = from_os(cause, what, where)
    do = "Free some space there, or set HEADSTART_CACHE to a folder that you may write to."
    return type(error)(error.what, where=error.where, do=do)


def read_graph(folder: Path) -> TapGraph:
    """Read a stored graph's description."""
    stored = json.loads((folder / "graph.json").read_text(encoding="utf-8"))
    stored.pop("files", None)
    stages = tuple(StageInfo(**{**s, "keeps": tuple(s["keeps"])}) for s in stored.pop("stages"))
    pre = stored.pop("preprocess")
    preprocess = Preprocess(**{**pre, "mean": tuple(pre["mean"]), "std": tuple(pre["std"])})
    return TapGraph(folder=folder, stages=stages, preprocess=preprocess, **stored)


def write_graph(graph: TapGraph) -> None:
    """Write the description beside the files that it vouches for by their checksums."""
    files = sorted(path for path in graph.folder.iterdir() if path.name != "graph.json")
    stored = {**to_json(graph), "files": {path.name: sha256_of(path) for path in files}}
    (graph.folder / "graph.json").write_text(json.dumps(stored), encoding="utf-8")


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
    """Run the exporter; its known errors come back on stdout as the same errors here."""
    # A download shows its progress bar; everything else that torch says stays unseen.
    downloads = request["weights"] is None and request["name"] != DEFAULT_BACKBONE
    try:
        done = subprocess.run(
            # -P: a file random.py in the current folder must not stand in for a module.
            [sys.executable, "-P", "-m", "headstart.backbone.export_graph"],
            input=json.dumps(request),
            stdout=subprocess.PIPE,
            stderr=None if downloads else subprocess.PIPE,
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
    for line in done.stdout.splitlines():
        if line.startswith(MARKER):
            raise _revive(json.loads(line.removeprefix(MARKER)))
    tail = " | ".join((done.stderr or "").strip().splitlines()[-3:])
    raise InternalError("Exporting the network failed", received=tail or f"exit {done.returncode}")


def _revive(fields: dict[str, Any]) -> HeadstartError:
    from headstart import errors

    kind = getattr(errors, str(fields.pop("kind")), WeightsError)
    error = kind(
        fields["what"], where=fields["where"], received=fields["received"], do=fields["do"]
    )
    assert isinstance(error, HeadstartError)
    return error
