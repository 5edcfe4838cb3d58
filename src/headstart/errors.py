"""One tree of errors. Every message says what is wrong, where, what was received, what to do next.

The class decides the exit code of the command line: 2 for arguments, data, permissions and run
folders (the user can mend them), 1 for the machine (full disk, memory) and for our own faults.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any


class HeadstartError(Exception):
    """Base of every error that headstart raises on purpose.

    Args:
        what: one sentence without a full stop that says what is wrong.
        where: the file, folder or flag it happened at.
        received: the value that was received, quoted.
        do: what to do next, as an imperative.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        received: object = None,
        do: str | None = None,
    ) -> None:
        self.what, self.where, self.received, self.do = what, where, received, do
        text = show(what)
        if where is not None:
            text += f": {show(where)}"
        text += "."
        if received is not None:
            text += f" Received: {show(received)}."
        if do is not None:
            text += f" {show(do)}"
        super().__init__(text)

    def __reduce__(self) -> tuple[Any, ...]:
        facts = {"where": self.where, "received": self.received, "do": self.do}
        return _again, (type(self), self.what, facts)


def _again(kind: type[HeadstartError], what: str, facts: dict[str, Any]) -> HeadstartError:
    return kind(what, **facts)


class ArgumentError(HeadstartError):
    """A flag or argument that cannot be used as it is."""

    exit_code = 2


class DataError(HeadstartError):
    """The user's images or tables cannot be used as they are."""

    exit_code = 2


class RunFolderError(HeadstartError):
    """A run folder that exists, is locked, cannot be written, or belongs to another run."""

    exit_code = 2


class BundleError(HeadstartError):
    """A model that is not a headstart bundle, is damaged, or is of an unknown version."""

    exit_code = 2


class WeightsError(HeadstartError):
    """Weights that are not at hand, do not fit the network, or fail their checksum."""

    exit_code = 2


class ExtraMissingError(HeadstartError):
    """An optional package is not installed."""

    exit_code = 2


class MachineError(HeadstartError):
    """The machine gave up: disk full, out of memory."""

    exit_code = 1


class TrainingError(HeadstartError):
    """A network could not be trained on these images at any rate that was tried."""

    exit_code = 2


class InternalError(HeadstartError):
    """A check of our own work failed; nothing was handed over."""

    exit_code = 1


def show(value: object) -> str:
    """A value as one printable line: control characters (ESC, BEL, newlines, RTL marks) escaped.

    >>> show("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    text = str(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """'Did you mean ...?' for a mistyped word, or an empty string when nothing is near.

    >>> nearest("tf_efficientnet_lit0", ["tf_efficientnet_lite0", "resnet18"])
    'Did you mean tf_efficientnet_lite0?'
    """
    close = difflib.get_close_matches(word, list(known), n=count)
    return f"Did you mean {' or '.join(close)}?" if close else ""


def require(package: str, extra: str, feature: str) -> ModuleType:
    """Import an optional package where it is used, or say which extra brings it."""
    try:
        return importlib.import_module(package)
    except ImportError as cause:
        absent = isinstance(cause, ModuleNotFoundError) and cause.name == package.partition(".")[0]
        raise ExtraMissingError(
            f"{feature} needs the package {package}, which "
            + ("is not installed" if absent else f"cannot be imported ({cause})"),
            do=f"Install it with: pip install 'headstart[{extra}]'",
        ) from cause


PATH_FAULTS = {
    errno.ENOTDIR: "a part of this path is not a folder",
    errno.EEXIST: "a part of this path is not a folder",
    errno.EISDIR: "a folder has this name",
    errno.ENOTEMPTY: "a folder has this name",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOENT: "a folder on this path is gone, or a link leads nowhere",
    errno.ELOOP: "links on this path lead in a circle",
}


@contextlib.contextmanager
def told(what: str, where: object) -> Iterator[None]:
    """An OSError within the block leaves it as the error of `from_os`."""
    try:
        yield
    except OSError as cause:
        raise from_os(cause, what, where) from cause


def from_os(cause: OSError, what: str, where: object) -> HeadstartError:
    """Translate an OSError of a write or read into the error a user can act on."""
    if cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return MachineError(
            f"{what}: the disk is full",
            where=where,
            do="Free some space or choose another folder with --out, then run the command again with --resume.",
        )
    if cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return RunFolderError(
            f"{what}: permission denied",
            where=where,
            do="Choose a folder you may write to with --out.",
        )
    if cause.errno in PATH_FAULTS:
        return RunFolderError(
            f"{what}: {PATH_FAULTS[cause.errno]}",
            where=where,
            do="Choose another folder with --out.",
        )
    return MachineError(f"{what}: {cause.strerror or cause}", where=where)
