"""Run a bundle on photos: any number of files and folders, streamed, without torch.

N images, C classes, R px: the side that images are brought to before the network's own crop.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.features import open_session
from headstart.data.images import ImageRefused, Preprocess, load_pixels
from headstart.data.sources import image_files
from headstart.errors import ArgumentError, from_os, require
from headstart.parallel import ordered_map
from headstart.run import csv_cell, sync_folder
from headstart.ship.bundle import Bundle, read_bundle

FORMATS = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one file: a class with its calibrated probability, or an error."""

    path: str
    predicted: str | None
    confidence: float | None
    probabilities: tuple[float, ...] | None
    """[C], in the order of the model's classes"""
    error: str | None


@dataclass(frozen=True, slots=True)
class Model:
    """A bundle ready to answer. Thread-safe: one call may run beside another."""

    bundle: Bundle
    session: Any

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in the order of the probabilities."""
        return self.bundle.classes

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
        row = self.probabilities(pixels[None])[0]
        best = int(row.argmax())
        values = tuple(float(p) for p in row)
        return Prediction(str(path), self.classes[best], values[best], values, None)


def load(path: str | Path) -> Model:
    """Load a bundle, or the bundle inside a run folder.

    Raises:
        BundleError: not a bundle, damaged, or of an unknown version.
    """
    bundle = read_bundle(Path(path))
    # From bytes: a graph that points to other files on this machine cannot be opened.
    return Model(bundle, open_session(bundle.onnx, threads=1))


def wide(preprocess: Preprocess) -> Preprocess:
    """What the bundled network is fed: resized, its own centre crop still to come.

    It holds the crop's pixels and their surroundings, for the network resizes by a factor of one.
    """
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
                raise ArgumentError("There is no image below this folder", where=path)
            files += found
        elif os.path.lexists(path):
            files.append(path)
        else:
            raise ArgumentError("This file does not exist", where=path, do="Check the path.")
    return files


# -- writing -------------------------------------------------------------------------------------


def write_predictions(
    predictions: Iterable[Prediction], classes: Sequence[str], out: Path | None, stdout: IO[str]
) -> tuple[int, int]:
    """Stream predictions to stdout as CSV, or to a file by its ending (.csv .jsonl .parquet).

    A file appears under its name only when it is whole.

    Returns:
        how many were answered, how many could not be read.
    """
    if out is None:
        return _stream_csv(predictions, classes, stdout)
    if out.suffix.casefold() not in FORMATS:
        raise ArgumentError(
            "--out has an unknown ending", received=out.name, do=f"Use {', '.join(FORMATS)}."
        )
    if out.suffix.casefold() == ".parquet":
        require("pyarrow", "data", "Writing Parquet")
    temporary: str | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{out.name[:40]}.", dir=out.parent)
        with os.fdopen(
            handle, "w", encoding="utf-8", errors="backslashreplace", newline=""
        ) as file:
            if out.suffix.casefold() == ".jsonl":
                counts = _stream_jsonl(predictions, classes, file)
            elif out.suffix.casefold() == ".csv":
                counts = _stream_csv(predictions, classes, file)
            else:
                counts = _write_parquet(predictions, classes, temporary)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(out)
        temporary = None
        sync_folder(out.parent)
        return counts
    except OSError as cause:
        raise from_os(cause, "Could not write the predictions", out) from cause
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


def header(classes: Sequence[str]) -> list[str]:
    """Columns of a table of predictions."""
    return ["path", "predicted", "confidence", *(f"p_{name}" for name in classes), "error"]


def _cells(prediction: Prediction, classes: Sequence[str]) -> list[object]:
    if prediction.probabilities is None:
        return [prediction.path, "", "", *("" for _ in classes), prediction.error]
    probabilities = (round(p, 6) for p in prediction.probabilities)
    assert prediction.confidence is not None
    confidence = round(prediction.confidence, 6)
    return [prediction.path, prediction.predicted, confidence, *probabilities, ""]


def _stream_csv(
    predictions: Iterable[Prediction], classes: Sequence[str], file: IO[str]
) -> tuple[int, int]:
    answered = failed = 0
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([csv_cell(name) for name in header(classes)])
    for prediction in predictions:
        writer.writerow([csv_cell(cell) for cell in _cells(prediction, classes)])
        file.write(buffer.getvalue())
        buffer.seek(0)
        buffer.truncate()
        answered += prediction.error is None
        failed += prediction.error is not None
    file.write(buffer.getvalue())
    file.flush()
    return answered, failed


def _stream_jsonl(
    predictions: Iterable[Prediction], classes: Sequence[str], file: IO[str]
) -> tuple[int, int]:
    answered = failed = 0
    for prediction in predictions:
        row: dict[str, object] = {"path": prediction.path}
        if prediction.probabilities is None:
            row["error"] = prediction.error
        else:
            row |= {
                "predicted": prediction.predicted,
                "confidence": prediction.confidence,
                "probabilities": dict(zip(classes, prediction.probabilities, strict=True)),
            }
        file.write(json.dumps(row) + "\n")
        answered += prediction.error is None
        failed += prediction.error is not None
    return answered, failed


def _write_parquet(
    predictions: Iterable[Prediction], classes: Sequence[str], path: str
) -> tuple[int, int]:
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, list[object]] = {name: [] for name in header(classes)}
    answered = failed = 0
    for prediction in predictions:
        cells: list[object] = [None if cell == "" else cell for cell in _cells(prediction, classes)]
        for name, cell in zip(columns, cells, strict=True):
            columns[name].append(cell)
        answered += prediction.error is None
        failed += prediction.error is not None
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return answered, failed
