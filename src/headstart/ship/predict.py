"""Run a bundle on photos: any number of files and folders, streamed, without torch.

N images, C classes, R px: the side that images are brought to before the network's own crop.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.features import open_session
from headstart.data.images import ImageRefused, Preprocess, load_pixels
from headstart.data.sources import image_files
from headstart.errors import ArgumentError, BundleError, require, told
from headstart.files import csv_text, strict, sync_folder, temporary
from headstart.judge.conformal import predict_sets
from headstart.judge.unlike import strangeness
from headstart.notebook import answer_html, model_html
from headstart.parallel import ordered_map
from headstart.ship.bundle import FEATURES, Bundle, read_bundle

ROWS_PER_GROUP = 8192


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one file: a class with its calibrated probability, or an error."""

    path: str
    predicted: str | None
    confidence: float | None
    probabilities: tuple[float, ...] | None
    """[C], in the order of the model's classes"""
    error: str | None
    possible: tuple[str, ...] | None = None
    """the prediction set: with the stated coverage the right class is among these; None: the model has none"""
    unlike: bool | None = None
    """whether the picture is unlike all that the model learned from; None: the model cannot tell"""

    def _repr_html_(self) -> str:
        return answer_html(
            self.path, self.predicted, self.confidence, self.error, self.possible, self.unlike
        )


@dataclass(frozen=True, slots=True)
class Model:
    """A bundle ready to answer. Thread-safe: one call may run beside another."""

    bundle: Bundle
    session: Any
    tells_features: bool
    """whether the network has the second output; those of older models have not"""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of its tables beyond those of every model."""
        known = {"set": self.bundle.sets, "unlike": self.bundle.unlike}
        return tuple(name for name, there in known.items() if there is not None)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in the order of the probabilities."""
        return self.bundle.classes

    def _repr_html_(self) -> str:
        backbone = self.bundle.description["backbone"]
        size_px = self.bundle.preprocess.size_px
        return model_html(self.classes, backbone["name"], size_px, backbone["licence"])

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, H, W, 3], RGB and upright -> calibrated probabilities float32 [N, C]."""
        return np.asarray(self.session.run(["probabilities"], {"image": pixels})[0])

    def predict(
        self, paths: str | Path | Iterable[str | Path], workers: int = 1
    ) -> Iterator[Prediction]:
        """Answers for files and folders in order; a file that cannot be read yields its error.

        Raises:
            ArgumentError: a path does not exist.
        """
        single = isinstance(paths, str | Path)
        files = expand([paths] if single else paths)  # type: ignore[list-item, arg-type]
        return ordered_map(self._one, files, workers)

    def _one(self, path: Path) -> Prediction:
        try:
            pixels, _ = load_pixels(path, wide(self.bundle.preprocess))
        except ImageRefused as refused:
            return Prediction(str(path), None, None, None, f"{refused.reason}: {refused.detail}")
        return self.answered(path, pixels)[0]

    def answered(
        self, path: Path, pixels: NDArray[np.uint8]
    ) -> tuple[Prediction, NDArray[np.float32] | None]:
        """The answer for one image's pixels [H, W, 3], and the features [D] that the head read of it
        (None: an older model, which does not tell)."""
        image = {"image": pixels[None]}
        if self.tells_features:
            rows, features = self.session.run(["probabilities", FEATURES], image)
        else:
            rows, features = self.probabilities(pixels[None]), None
        row, sets, unlike = rows[0], self.bundle.sets, None
        if self.bundle.unlike is not None and features is not None:
            unlike = bool(strangeness(self.bundle.unlike, features)[0] > 1)
        possible = None
        if sets is not None:
            inside = predict_sets(sets, rows)[0]
            possible = tuple(np.array(self.classes, dtype=object)[inside].tolist())
        best = int(row.argmax())
        values = tuple(float(p) for p in row)
        found = Prediction(
            str(path), self.classes[best], values[best], values, None, possible, unlike
        )
        return found, None if features is None else features[0]


def load(path: str | Path) -> Model:
    """Load a bundle, or the bundle inside a run folder.

    Raises:
        BundleError: not a bundle, damaged, or of an unknown version.
    """
    bundle = read_bundle(Path(path))
    try:
        # From bytes: a graph that points to other files on this machine cannot be opened.
        session = open_session(bundle.onnx, threads=1)
        shapes = {out.name: out.shape for out in session.get_outputs()}
        fits = shapes["probabilities"][-1] == len(bundle.classes)
        fits = fits and [entry.name for entry in session.get_inputs()] == ["image"]
    except Exception as cause:  # any: the runtime's own errors have no common base
        raise BundleError(
            "The network of this model cannot be run", where=bundle.folder,
            received=str(cause)[:200], do="Train it again, or update onnxruntime.",
        ) from cause  # fmt: skip
    if not fits:
        raise BundleError(
            "The network of this model does not fit its classes", where=bundle.folder,
            do="Copy the model again, or train it again.",
        )  # fmt: skip
    return Model(bundle, session, FEATURES in shapes)


def wide(preprocess: Preprocess) -> Preprocess:
    """What the bundled network is fed, which it resizes by a factor of one.

    For "crop" the crop's pixels and their surroundings, its own centre crop still to come; a
    padded or squashed image is a square of the network's side already and stays as it is.
    """
    if preprocess.fit != "crop":
        return preprocess
    return replace(preprocess, size_px=preprocess.resize_px)


def expand(paths: Iterable[str | Path]) -> list[Path]:
    """Files as given, folders as the files below them, in natural order.

    Raises:
        ArgumentError: a path does not exist; a folder holds no file.
    """
    files: list[Path] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            found = image_files(path)
            if not found:
                raise ArgumentError(
                    "There is no image below this folder",
                    where=path,
                    do="Give image files, or a folder that holds some.",
                )
            files += found
        elif os.path.lexists(path):
            files.append(path)
        else:
            raise ArgumentError(
                "This image or folder does not exist", where=path, do="Check the path."
            )
    return files


# -- writing -------------------------------------------------------------------------------------


def write_predictions(
    predictions: Iterable[Prediction],
    classes: Sequence[str],
    out: Path | None,
    stdout: IO[str],
    columns: Sequence[str] = (),
) -> tuple[int, int]:
    """Stream predictions to stdout as CSV, or to a file by its ending (.csv .jsonl .parquet).

    A file appears under its name only when it is whole.

    Args:
        columns: `Model.columns`: `set`, the prediction set with `|` between its classes (one within a
            name is written `\\|`), and `unlike`, true or false.

    Returns:
        how many were answered, how many could not be read.
    """
    answered = failed = 0

    def counted() -> Iterator[Prediction]:
        nonlocal answered, failed
        for prediction in predictions:
            answered += prediction.error is None
            failed += prediction.error is not None
            yield prediction

    if out is None:
        _stream_csv(counted(), classes, columns, stdout)
        return answered, failed
    check_out(out)
    write = WRITERS[out.suffix.casefold()]
    beside = temporary(out)
    try:
        with told("Could not write the predictions", out):
            out.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("x", encoding="utf-8", errors="backslashreplace", newline="") as file:
                write(counted(), classes, columns, file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(out)
            sync_folder(out.parent)
        return answered, failed
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()  # there only when something failed


def check_out(out: Path) -> None:
    """Refuse an --out that cannot be written, before any image is looked at."""
    if out.suffix.casefold() not in WRITERS:
        raise ArgumentError(
            "--out has an unknown ending", received=out.name, do=f"Use {', '.join(WRITERS)}."
        )
    if out.is_dir():
        raise ArgumentError("--out is a folder", where=out, do="Give the name of a file.")
    if out.suffix.casefold() == ".parquet":
        require("pyarrow", "data", "Writing Parquet")


def header(classes: Sequence[str], columns: Sequence[str] = ()) -> list[str]:
    """Columns of a table of predictions."""
    return [
        "path",
        "predicted",
        "confidence",
        *(f"p_{name}" for name in classes),
        *columns,
        "error",
    ]


def _cells(
    prediction: Prediction, classes: Sequence[str], columns: Sequence[str]
) -> list[str | float | bool | None]:
    if prediction.probabilities is None:
        return [
            prediction.path,
            None,
            None,
            *(None for _ in (*classes, *columns)),
            prediction.error,
        ]
    probabilities = [round(p, 6) for p in prediction.probabilities]
    names = (name.replace("|", "\\|") for name in prediction.possible or ())
    more = {"set": "|".join(names), "unlike": prediction.unlike}
    return [
        prediction.path,
        prediction.predicted,
        max(probabilities),
        *probabilities,
        *(more[name] for name in columns),
        None,
    ]


def _stream_csv(
    predictions: Iterable[Prediction], classes: Sequence[str], columns: Sequence[str], file: IO[str]
) -> None:
    file.write(csv_text(header(classes, columns), []))
    for prediction in predictions:
        cells = _cells(prediction, classes, columns)
        # A truth value is a word of JSON here too: the same in every kind of file.
        words = [json.dumps(cell) if isinstance(cell, bool) else cell for cell in cells]
        file.write(csv_text(words, []))  # type: ignore[arg-type]
        file.flush()  # whoever reads along sees every answer at once


def _stream_jsonl(
    predictions: Iterable[Prediction], classes: Sequence[str], columns: Sequence[str], file: IO[str]
) -> None:
    names = header(classes, columns)
    for prediction in predictions:
        row = dict(zip(names, _cells(prediction, classes, columns), strict=True))
        file.write(json.dumps(strict(row), ensure_ascii=False) + "\n")


def _stream_parquet(
    predictions: Iterable[Prediction], classes: Sequence[str], columns: Sequence[str], file: IO[str]
) -> None:
    """In groups of rows, so that memory does not grow with the number of images."""
    import pyarrow
    import pyarrow.parquet

    text, number = pyarrow.string(), pyarrow.float64()
    more = {"set": text, "unlike": pyarrow.bool_()}
    kinds = [text, text, number, *(number for _ in classes), *(more[c] for c in columns), text]
    schema = pyarrow.schema(list(zip(strict(header(classes, columns)), kinds, strict=True)))
    found = iter(predictions)
    with pyarrow.parquet.ParquetWriter(file.buffer, schema) as writer:  # type: ignore[attr-defined]
        while rows := [
            _cells(p, classes, columns) for p in itertools.islice(found, ROWS_PER_GROUP)
        ]:
            arrays = [
                pyarrow.array(column, kind)
                for column, kind in zip(zip(*strict(rows), strict=True), kinds, strict=True)
            ]
            writer.write_table(pyarrow.table(arrays, schema=schema))


WRITERS = {".csv": _stream_csv, ".jsonl": _stream_jsonl, ".parquet": _stream_parquet}
