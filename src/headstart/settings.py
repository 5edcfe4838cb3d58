"""Typed settings: one frozen object per command, one doc line and unit per field.

Contradictions are refused here, in the words of the flags, before anything is read or written.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from headstart.errors import ArgumentError

DEFAULT_BACKBONE = "tf_efficientnet_lite0"
DEFAULT_BUDGET_MIN = 10.0
HEAD = r"^(linear|mlp:[1-9]\d{0,3})$"
METRICS = ("auto", "accuracy", "balanced_accuracy", "auc", "auc:CLASS", "log_loss", "sens@spec=X")


def _a_name(value: object) -> object:
    """Refuse what no file can be called: "" would silently mean the current folder."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(text, str) and (not text.strip() or "\0" in text):
        raise ValueError("a path must not be empty or hold a zero byte")
    return value


UserPath = Annotated[Path, BeforeValidator(_a_name)]


def _shares(value: object) -> object:
    """`CLASS=SHARE`, several of them in a list or between commas; a name may hold both signs."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        return value  # None, or a mapping from Python
    shares: dict[str, str] = {}
    for text in map(str, texts):
        found = re.findall(r"(.+?)=([^=,]+)(?:,|$)", text)
        if ",".join(f"{name}={share}" for name, share in found) != text:
            raise ValueError("give CLASS=SHARE, for example melanoma=0.01")
        for name, share in found:
            if name in shares:
                raise ValueError(f"the class {name} has two shares")
            shares[name] = share
    return shares or None


def _below_one(shares: dict[str, float] | None) -> dict[str, float] | None:
    if shares is not None:
        if not all(0 < share < 1 for share in shares.values()):
            raise ValueError("a share lies between 0 and 1")
        if sum(shares.values()) > 1 + 1e-9:
            raise ValueError("the shares add up to more than 1")
    return shares


def _names(value: object) -> object:
    """One name or several of them; none is as good as not asked."""
    return (value,) if isinstance(value, str) else value or None


Names = Annotated[tuple[str, ...] | None, BeforeValidator(_names)]

Prevalence = Annotated[
    dict[str, float] | None, BeforeValidator(_shares), AfterValidator(_below_one)
]
"""share of each class where the model is to be used"""


class FitSettings(BaseModel):
    """Everything `headstart fit` (and `plan`, which stops half-way) can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: UserPath | None = Field(None, description="folder: CLASS/* or {train,val,test}/CLASS/*")
    table: UserPath | None = Field(None, description="CSV: path,label and optionally group,split")
    out: UserPath | None = Field(None, description="run folder; default runs/<data>-<k>")
    test: UserPath | None = Field(None, description="folder of test images: CLASS/*")
    group: str | None = Field(None, description="column, or re:PATTERN on the file name")
    by: Names = Field(
        None, description="columns whose values are compared; default: those of 2 to 20 values"
    )
    metric: str = Field(
        "auto", description="the score that drives every choice: " + ", ".join(METRICS)
    )
    case: Literal[1, 2, 3, 4] | None = Field(None, description="force one of the four cases")
    cut: str | None = Field(None, description="stage after which the network is cut (case 2)")
    from_scratch: bool = Field(False, description="force case 4 with random weights only")
    backbone: str = Field(DEFAULT_BACKBONE, description="name of a timm CNN")
    weights: UserPath | None = Field(None, description="file with the backbone's weights")
    size: int | None = Field(None, description="side of the network's input in px", ge=32, le=1024)
    fit_image: Literal["crop", "pad", "squash"] | None = Field(
        None, description="how an image becomes a square; default: chosen by the data"
    )
    head: str = Field("linear", description="linear, or mlp:WIDTH: a hidden layer", pattern=HEAD)
    epochs: int | None = Field(None, description="fixes the schedule of training", ge=1, le=100_000)
    augment: str = Field(
        "auto", description="auto (each is tested), none, or a list: flip,rotate,..."
    )
    budget: float | None = Field(
        None, description="minutes of wall clock; 0: one look only", ge=0, allow_inf_nan=False
    )
    prevalence: Prevalence = Field(
        None, description="CLASS=SHARE where the model is to be used, for PPV and NPV"
    )
    relabel: UserPath | None = Field(
        None, description="CSV with corrected labels: path,label, as suggestions.csv"
    )
    small_below: int = Field(1_000, description="fewer training images than this are small", ge=1)
    large_above: int = Field(10_000, description="this many training images are large", ge=1)
    refit_all: bool = Field(False, description="ship a head that learned from the test part too")
    seed: int = Field(0, description="seed of splits, heads and bootstrap", ge=0, le=2**31 - 1)
    resume: bool = Field(False, description="go on with, or print, an existing run")
    tensorboard: bool = Field(False, description="log training for TensorBoard too")
    report: bool = Field(True, description="write report.html")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the network runs")

    @model_validator(mode="after")
    def _no_contradictions(self) -> FitSettings:
        if (self.data is None) == (self.table is None):
            both = ", not both" if self.data is not None else ""
            raise ValueError(f"Give a folder of images, or --table FILE.csv{both}")
        if self.table is not None and self.test is not None:
            raise ValueError("--test goes with a folder; in a table use the column `split`")
        if self.table is None and self.group is not None and not self.group.startswith("re:"):
            raise ValueError("--group COLUMN needs --table; for a folder use --group re:PATTERN")
        if self.cut is not None and self.case not in (None, 2):
            raise ValueError(f"--cut belongs to case 2 and cannot go with --case {self.case}")
        if self.from_scratch and (self.cut is not None or self.case not in (None, 4)):
            raise ValueError("--from-scratch means case 4 and cannot go with --cut or another case")
        if self.retrains and self.hidden:
            raise ValueError("--head mlp:WIDTH goes with a frozen network; cases 3 and 4 train it")
        if self.retrains and self.budget == 0:
            raise ValueError("--budget 0 means a frozen network; cases 3 and 4 train it")
        if not self.retrains and self.epochs is not None:
            raise ValueError("--epochs belongs to --case 3, --case 4, --from-scratch")
        if self.augment != "auto" and not (self.retrains or self.may_train):
            raise ValueError("--augment is for training the network, which is not done here")
        if self.refit_all and self.retrains:
            raise ValueError("--refit-all goes with a frozen network; cases 3 and 4 train it")
        if self.small_below > self.large_above:
            raise ValueError("--small-below must not be above --large-above")
        return self

    @model_validator(mode="after")
    def _columns_are_of_a_table(self) -> FitSettings:
        if self.by and self.table is None and self.group is None:
            raise ValueError("--by COLUMN needs --table, or names the groups of --group")
        return self

    @property
    def source(self) -> Path:
        """The data folder or the table, whichever was given."""
        found = self.data if self.data is not None else self.table
        assert found is not None  # checked above
        return found

    @property
    def retrains(self) -> bool:
        """Whether the network itself is to be trained."""
        return self.from_scratch or self.case in (3, 4)

    @property
    def may_train(self) -> bool:
        """Whether what is left of the budget may go into training the network, nothing being forced."""
        frozen = self.case in (1, 2) or self.cut is not None or self.hidden or self.refit_all
        return not (self.retrains or frozen) and self.budget_min > 0

    @property
    def hidden(self) -> int:
        """Width of the head's hidden layer that was asked for; 0: none."""
        return 0 if self.head == "linear" else int(self.head.partition(":")[2])

    @property
    def budget_min(self) -> float:
        """Minutes that may be spent."""
        return DEFAULT_BUDGET_MIN if self.budget is None else self.budget

    def that_matter(self) -> dict[str, Any]:
        """The settings that decide the result: a resumed run must agree with them."""
        return self.model_dump(mode="json", exclude={"out", "resume", "report", "tensorboard"})


def fit_settings(values: Mapping[str, Any], command: str = "fit") -> FitSettings:
    """Build FitSettings from plain values.

    Args:
        command: whose help an error names.

    Raises:
        ArgumentError: an unknown key (the nearest one is offered), a wrong type, a contradiction.
    """
    unknown = [key for key in values if key not in FitSettings.model_fields]
    if unknown:
        close = difflib.get_close_matches(unknown[0], FitSettings.model_fields, n=1)
        raise ArgumentError(
            "Unknown setting",
            received=unknown[0],
            do=f"Did you mean {close[0]}?" if close else f"See headstart {command} --help.",
        )
    try:
        return FitSettings(**values)
    except ValidationError as cause:
        raise _refused(cause, command) from cause


class CompareSettings(FitSettings):
    """Everything `headstart compare` can be told: as for fit, with nothing forced."""

    folds: int = Field(1, description="verifying folds that judge, at least", ge=1, le=5)

    @model_validator(mode="after")
    def _no_contradictions(self) -> CompareSettings:
        """Here --epochs and --augment need no forced case; the rest `fit_settings` has checked."""
        return self


def compare_settings(values: Mapping[str, Any]) -> CompareSettings:
    """Build CompareSettings from plain values.

    Raises:
        ArgumentError: an unknown key, a wrong type, a contradiction.

    >>> compare_settings({"data": "photos", "epochs": 3}).folds
    1
    """
    own = {key: values[key] for key in ("folds", "epochs", "augment") if key in values}
    shared = fit_settings(
        {key: value for key, value in values.items() if key not in own}, "compare"
    )
    try:
        return CompareSettings(**{**shared.model_dump(), **own})
    except ValidationError as cause:
        raise _refused(cause, "compare") from cause


UNITS = {"size": " px", "budget": " minutes"}
WANTED = {
    "head": "give linear, or mlp:WIDTH such as mlp:96",
    "prevalence": "give CLASS=SHARE, where the share is a number such as 0.01",
}
KINDS = {
    "path_type": "give a path",
    "string_type": "give text",
    "bool_type": "give True or False",
    "bool_parsing": "give True or False",
}
"""kinds of refusal by pydantic, in our words"""


def _refused(cause: ValidationError, command: str) -> ArgumentError:
    """The first thing that pydantic refused, in the words of the flags."""
    first = cause.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "value_error":  # raised here
        what = str(first["msg"]).removeprefix("Value error, ")
    else:
        what = WANTED.get(name) or _limits(name) or KINDS.get(first["type"]) or str(first["msg"])
    return ArgumentError(
        f"--{name.replace('_', '-')}: {what}" if name else what,
        received=first["input"] if name else None,
        do=f"See headstart {command} --help.",
    )


def _limits(name: str) -> str:
    """What a setting may be: one of a few words, or a number within limits; empty for all others.

    >>> _limits("size"), _limits("fit_image"), _limits("small_below")
    ('32 to 1024 px', 'give crop, pad or squash', 'a whole number from 1')
    """
    field = CompareSettings.model_fields[name]
    words = [
        str(word)
        for kind in (field.annotation, *get_args(field.annotation))
        for word in get_args(kind)
        if isinstance(word, str | int)
    ]
    if words:
        return f"give {', '.join(words[:-1])} or {words[-1]}"
    limits = {
        key: getattr(rule, key)
        for rule in field.metadata
        for key in ("ge", "le")
        if hasattr(rule, key)
    }
    if not limits:
        return ""
    if "le" in limits:
        return f"{limits['ge']} to {limits['le']}{UNITS.get(name, '')}"
    kind = "a number of" if name in UNITS else "a whole number"
    return f"{kind}{UNITS.get(name, '')} from {limits['ge']}"


def cache_dir() -> Path:
    """Where graphs and features are kept: $HEADSTART_CACHE, else the XDG cache, else ~/.cache."""
    own, xdg = os.environ.get("HEADSTART_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    try:
        if own:
            return Path(own).expanduser()
        # The XDG specification says that a relative path must be ignored.
        return (Path(xdg) if Path(xdg).is_absolute() else Path.home() / ".cache") / "headstart"
    except RuntimeError as cause:
        raise ArgumentError(
            "This user has no home folder to keep the cache in",
            do="Set the environment variable HEADSTART_CACHE to a folder you may write to.",
        ) from cause


def threads() -> int:
    """Processors this process may use: the scheduler's affinity and the container's quota, not the
    machine's count."""
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    allowed = quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(1, math.ceil(min(count, allowed)))


def quota(own: Path, root: Path) -> float:
    """Processors that a container may use on average (Linux control groups, version 2 or 1).

    Args:
        own: names the groups of this process. root: where their files lie.

    >>> quota(Path("nowhere"), Path("nowhere"))
    inf
    """
    groups = [Path()]
    with contextlib.suppress(OSError):
        for line in own.read_text(encoding="utf-8").splitlines():
            name = Path(line.split(":", 2)[-1].lstrip("/"))
            groups += [name, *name.parents]
    least = math.inf
    for group in groups:
        for read in (_quota_2, _quota_1):
            with contextlib.suppress(OSError, ValueError):
                least = min(least, read(root, group))
    return least


def _quota_2(root: Path, group: Path) -> float:
    most, period = (root / group / "cpu.max").read_text(encoding="utf-8").split()
    return math.inf if most == "max" else int(most) / int(period)


def _quota_1(root: Path, group: Path) -> float:
    place = root / "cpu" / group
    most, period = (
        int((place / f"cpu.cfs_{name}_us").read_text(encoding="utf-8"))
        for name in ("quota", "period")
    )
    return math.inf if most <= 0 else most / period
