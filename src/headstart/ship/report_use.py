"""Commands that the report offers to copy: with this run's own folder, data and settings in them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from headstart.settings import FitSettings
from headstart.ship.chart_parts import Record, record
from headstart.ship.page import cleaned

# What does not change the result, or stands elsewhere in the command.
ELSEWHERE = ("data", "out", "resume", "report", "tensorboard", "relabel")

CORRECTED = "corrected.csv"
"""what suggestions.csv is to be saved as, beside it, once its labels are right"""


def use_commands(run_dir: Path) -> list[tuple[str, str]]:
    """What to type to use the model, each with its purpose."""
    run = quoted(run_dir)
    return [
        ("Classify one photo", f"headstart predict {run} photo.jpg"),
        (
            "Classify a folder of photos into a table",
            f"headstart predict {run} photos --out photos.csv",
        ),
        ("Judge it on new labelled photos", f"headstart evaluate {run} labelled_photos"),
        ("See what speaks for an answer", f"headstart explain {run} photo.jpg --out why"),
        ("Find the photos that are worth a label next", f"headstart next {run} photos --n 50"),
    ]


def fit_command(run: Record, relabel: Path | None = None) -> str | None:
    """The command that makes this run again, or makes it with corrected labels; None when run.json
    does not hold what was asked for.

    >>> fit_command({"settings": {"data": "my photos", "budget": 0.0, "seed": 0, "case": 1}})
    "headstart fit 'my photos' --case 1 --budget 0"
    """
    settings = record(run.get("settings"))
    source, table = settings.get("data"), settings.get("table")
    if not isinstance(source, str) and not isinstance(table, str):
        return None
    words = ["headstart", "fit", *([quoted(source)] if isinstance(source, str) else [])]
    for name, field in FitSettings.model_fields.items():
        value = settings.get(name)
        if name not in ELSEWHERE and value is not None and value != field.default:
            words += _flag(name, value)
    given = settings.get("relabel") if relabel is None else str(relabel)
    if isinstance(given, str):
        words += ["--relabel", quoted(given)]
    return " ".join(words)


def _flag(name: str, value: Any) -> list[str]:
    """One setting as it is typed."""
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [flag] if value else []
    if isinstance(value, dict):
        pairs = (f"{key}={share:g}" for key, share in value.items() if isinstance(share, float))
        return [part for pair in pairs for part in (flag, quoted(pair))]
    if isinstance(value, list):
        return [part for item in value for part in (flag, quoted(str(item)))]
    if isinstance(value, float):
        return [flag, f"{value:g}"]
    return [flag, quoted(str(value))]


def quoted(word: str | Path) -> str:
    """One word for a shell: a leading dash would be read as an option, and quotes keep spaces and
    signs of the shell harmless.

    >>> quoted("my run"), quoted("-run")
    ("'my run'", './-run')
    """
    text = str(word)
    text = f"./{text}" if text.startswith("-") else text
    return str(cleaned(shlex.quote(text)))
