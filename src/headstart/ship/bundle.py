"""The bundle: everything a person needs to run the model, in one folder, without this project.

    model/  headstart.json · model.safetensors · model.onnx · README.md

JSON, safetensors and ONNX only: nothing in it is ever executed. Equal training gives equal bytes;
no time, path or run name is inside. Files are read by fixed names, and every checksum is compared
before anything is used.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.features import open_session
from headstart.backbone.graph import SPREAD, TapGraph
from headstart.data.images import Preprocess
from headstart.errors import ArgumentError, BundleError, InternalError, from_os, show
from headstart.judge.conformal import SetRule, sets_from_json, sets_to_json
from headstart.judge.unlike import Unlike, unlike_arrays, unlike_from_arrays
from headstart.plan.decide import Candidate
from headstart.run import atomic_write, sync_folder
from headstart.train.head import Head
from headstart.train.mlp import MlpHead

FORMAT = "headstart-bundle"
FORMAT_VERSION = 1
HASHED = ("model.onnx", "model.safetensors")
DESCRIPTION = "headstart.json"
FEATURES = "features"
"""the network's second output: what the head reads"""
PARITY_LIMIT = 1e-4
"""largest allowed difference in probability between the bundle and what was evaluated"""
MAX_JSON_BYTES = 50_000_000


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read and whose checksums agree."""

    folder: Path
    classes: tuple[str, ...]
    preprocess: Preprocess
    temperature: float
    taps: tuple[str, ...]
    description: dict[str, Any]
    onnx: bytes
    sets: SetRule | None = None
    """which classes belong into an image's prediction set; older models have none"""
    unlike: Unlike | None = None
    """how far from the training images a new one may lie; older models do not know"""


def describe(
    graph: TapGraph,
    candidate: Candidate,
    classes: Sequence[str],
    temperature: float,
) -> dict[str, Any]:
    """headstart.json less the checksums: what the network is and how to use it.

    Args:
        graph: of the view that the candidate's head reads, at its input size and fit.
    """
    assert not graph.preprocess.mirror, "a mirrored view is there to learn from only"
    taps = taps_of(graph, candidate)
    last = graph.deepest(taps)
    end = graph.stages.index(last) + 1
    preprocess = asdict(graph.preprocess)
    preprocess.pop("mirror")
    if candidate.strategy in ("finetune", "scratch"):
        frozen = 0
    elif candidate.through is not None:
        frozen = graph.stage(candidate.through).parameters
    else:
        frozen = last.parameters
    inputs = sum(graph.stage(tap).width for tap in taps)
    sizes = [inputs, candidate.hidden, len(classes)] if candidate.hidden else [inputs, len(classes)]
    head = sum((a + 1) * b for a, b in itertools.pairwise(sizes))
    counts = {"frozen": frozen, "trained": last.parameters - frozen + head}
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "classes": list(classes),
        "backbone": {
            "name": graph.name,
            "weights_sha256": graph.weights_sha256,
            "licence": graph.licence,
            "source": graph.source,
        },
        "strategy": candidate.strategy,
        "cut": candidate.cut,
        "case": candidate.case,
        "stages": {
            "kept": list(graph.stage_names[:end]),
            "removed": list(graph.stage_names[end:]),
        },
        "head": {
            "reads": list(taps),
            "inputs": inputs,
            "hidden": candidate.hidden,
            "outputs": len(classes),
        },
        "parameters": {**counts, "multiply_adds": last.macs},
        "preprocess": preprocess,
        "temperature": temperature,
        "input": "image: uint8 [N, H, W, 3], RGB, upright (EXIF orientation applied)",
        "output": "probabilities: float32 [N, C], in the order of classes",
        "second_output": "features: float32 [N, D], what the head reads",
    }


def taps_of(graph: TapGraph, candidate: Candidate) -> tuple[str, ...]:
    """The graph's outputs that a candidate's head reads, in the order of its features."""
    every = candidate.strategy == "all_stages"
    stages = graph.stage_names if every else (candidate.cut or graph.stage_names[-1],)
    if not candidate.spread:
        return stages
    return (*stages, *(n for n in graph.spread_names if n.removesuffix(SPREAD) in stages))


def write_bundle(
    folder: Path,
    graph: TapGraph,
    description: dict[str, Any],
    head: Head | MlpHead,
    check: tuple[NDArray[np.uint8], NDArray[np.float64]],
    card: str,
    sets: SetRule | None = None,
    unlike: Unlike | None = None,
) -> dict[str, Any]:
    """Write the bundle beside its place, prove it, then move it there in one step.

    Args:
        check: pixels uint8 [N, R, R, 3] of real images as `predict.wide` asks for them, and the
            probabilities [N, C] that were evaluated for them.
        sets: the rule for prediction sets. unlike: what new images are compared with.

    Returns:
        the description as stored.

    Raises:
        InternalError: the bundle does not give the same probabilities. MachineError: disk full.
    """
    from safetensors.numpy import save

    from headstart.ship.onnx_graph import build

    if sets is not None:
        description = description | {"sets": sets_to_json(sets)}
    tensors = _tensors(graph, description, head)
    tensors |= {} if unlike is None else unlike_arrays(unlike)
    staging = _beside(folder)
    try:
        _remove_leftovers(folder)
        staging.mkdir(parents=True)
        network = build(
            graph.onnx,
            description["head"]["reads"],
            graph.preprocess,
            head,
            description["temperature"],
        )
        atomic_write(staging / "model.onnx", network)
        atomic_write(staging / "model.safetensors", save(tensors))
        difference = _prove(staging / "model.onnx", check)
        description = description | {"parity": difference, "checked_on": len(check[0])}
        description["sha256"] = {
            **{name: _sha256_of(staging / name) for name in HASHED},
            DESCRIPTION: _own_sha256(description),
        }
        atomic_write(staging / "README.md", card)
        atomic_write(staging / DESCRIPTION, json.dumps(description, indent=1) + "\n")
        _replace(staging, folder)
    except OSError as cause:
        raise from_os(cause, "Could not write the model", folder) from cause
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return description


def read_bundle(path: Path) -> Bundle:
    """Read a bundle, or the bundle inside a run folder.

    Raises:
        BundleError: not a bundle, damaged, or of a version this program does not know.
    """
    try:
        folder = path / "model" if (path / "model" / DESCRIPTION).is_file() else path
        file = folder / DESCRIPTION
        if not file.is_file():
            raise BundleError(
                "There is no model here", where=path,
                do="Give a run folder, or the folder model/ in it, made by headstart fit.",
            )  # fmt: skip
        return _read(folder)
    except ArgumentError as cause:  # of values in the description, not of anything the user typed
        raise _damaged(path, cause.what) from cause
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        missing = isinstance(cause, KeyError)
        raise _damaged(path, f"it has no entry {cause}" if missing else str(cause)) from cause


def _read(folder: Path) -> Bundle:
    file = folder / DESCRIPTION
    if file.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{DESCRIPTION} is too large")
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as cause:
        raise ValueError(f"{DESCRIPTION} is not JSON") from cause
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ValueError(f"{DESCRIPTION} does not describe a headstart model")
    if description["version"] != FORMAT_VERSION:
        raise BundleError(
            "This model was made by another version of headstart", where=folder,
            received=f"format {show(description['version'])[:40]}",
            do=f"This program reads format {FORMAT_VERSION}: update headstart, or train it again.",
        )  # fmt: skip
    if _own_sha256(description) != description["sha256"][DESCRIPTION]:
        raise ValueError(f"{DESCRIPTION} fails its checksum")
    for name in HASHED:
        if not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
        if _sha256_of(folder / name) != description["sha256"][name]:
            raise ValueError(f"{name} fails its checksum")
    pre = description["preprocess"]
    if "mirror" in pre:  # for learning only: no model is written with it
        raise ValueError("its images would be mirrored")
    return Bundle(
        folder=folder,
        classes=tuple(str(name) for name in description["classes"]),
        preprocess=Preprocess(**(pre | {"mean": tuple(pre["mean"]), "std": tuple(pre["std"])})),
        temperature=float(description["temperature"]),
        taps=tuple(description["head"]["reads"]),
        description=description,
        onnx=(folder / "model.onnx").read_bytes(),
        sets=_sets(description),
        unlike=_unlike(folder, description),
    )


def _sets(description: dict[str, Any]) -> SetRule | None:
    stored = description.get("sets")
    return None if stored is None else sets_from_json(stored, len(description["classes"]))


def _unlike(folder: Path, description: dict[str, Any]) -> Unlike | None:
    """The bank of images among the tensors, of which only it is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / "model.safetensors", framework="numpy") as stored:
            names = [name for name in stored.keys() if name.startswith("unlike.")]
            arrays = {name: stored.get_tensor(name) for name in names}
    except SafetensorError as cause:
        raise ValueError(f"model.safetensors cannot be read: {cause}") from cause
    return unlike_from_arrays(arrays, description["head"]["inputs"]) if arrays else None


def _damaged(path: Path, why: str) -> BundleError:
    do = "Copy it again, or train it again."
    return BundleError(f"This model is damaged ({show(why)[:200]})", where=path, do=do)


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own_sha256(description: dict[str, Any]) -> str:
    """Checksum of the description less the checksums, whatever its spacing."""
    rest = {key: value for key, value in description.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _tensors(graph: TapGraph, description: dict[str, Any], head: Head | MlpHead) -> dict[str, Any]:
    """Tensors of the kept stages under `backbone.`, and the head."""
    from safetensors import safe_open

    from headstart.ship.onnx_graph import head_tensors

    keeps = graph.deepest(description["head"]["reads"]).keeps
    # safetensors writes memory as it lies: a transposed view would be stored scrambled.
    tensors: dict[str, Any] = dict(head_tensors(head))
    with safe_open(graph.weights, framework="numpy") as stored:
        for name in keeps:
            tensors[f"backbone.{name}"] = stored.get_tensor(name)
    return tensors


def _prove(network: Path, check: tuple[NDArray[np.uint8], NDArray[np.float64]]) -> float:
    """Largest difference in probability to what was evaluated; refused above the limit."""
    pixels, expected = check
    got = open_session(network, threads=1).run(["probabilities"], {"image": pixels})[0]
    same_shape = got.shape == expected.shape
    difference = float(np.abs(got - expected).max()) if same_shape else np.inf
    if not difference <= PARITY_LIMIT:  # also when it is not a number
        raise InternalError(
            f"The bundled network differs by {difference:.1e} in probability from the evaluated one",
            do="Nothing was handed over. Please report this.",
        )
    return difference


def _replace(staging: Path, folder: Path) -> None:
    """Put a finished folder in its place; an older one there stays until the new one is whole."""
    old = None
    if folder.exists():
        old = _beside(folder)
        folder.rename(old)
    staging.rename(folder)
    sync_folder(folder.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _beside(folder: Path) -> Path:
    return folder.parent / f".{folder.name}-{secrets.token_hex(4)}"


def _remove_leftovers(folder: Path) -> None:
    """Clear away what a killed process left beside the folder; the run's lock is held by us."""
    pattern = glob.escape(f".{folder.name}-") + "[0-9a-f]" * 8
    for leftover in folder.parent.glob(pattern):
        shutil.rmtree(leftover)
