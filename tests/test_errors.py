"""Errors: one printable line that says what, where, what was received and what to do."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart import errors
from headstart.errors import (
    ArgumentError,
    DataError,
    ExtraMissingError,
    HeadstartError,
    MachineError,
    RunFolderError,
    from_os,
    nearest,
    require,
    show,
    told,
)

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # surrogates and control characters too


@given(ANY_TEXT)
def test_what_is_shown_is_one_printable_line_and_shown_again_the_same(text: str) -> None:
    shown = show(text)
    assert shown.isprintable()
    assert shown.encode("utf-8").decode() == shown
    assert show(shown) == shown


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_a_message_is_one_printable_line_whatever_it_is_made_of(
    what: str, where: str, received: str, do: str
) -> None:
    assert str(HeadstartError(what, where=where, received=received, do=do)).isprintable()


def test_a_message_says_what_where_what_was_received_and_what_to_do() -> None:
    error = DataError("A thing is wrong", where=Path("a/b"), received="\x1b[31m", do="Mend it.")
    assert str(error) == "A thing is wrong: a/b. Received: \\x1b[31m. Mend it."
    assert str(DataError("Alone")) == "Alone."


def test_the_user_can_mend_what_exits_with_2_and_not_what_exits_with_1() -> None:
    kinds = {k for k in vars(errors).values() if isinstance(k, type) and k is not HeadstartError}
    codes = {k.__name__: k.exit_code for k in kinds if issubclass(k, HeadstartError)}
    assert {name for name, code in codes.items() if code == 1} == {"MachineError", "InternalError"}
    assert {code for code in codes.values()} == {1, 2}


def test_an_error_survives_the_way_between_processes() -> None:
    error = ArgumentError("Wrong", where="x", received="y", do="Mend it.")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (type(copy), str(copy), copy.do) == (ArgumentError, str(error), "Mend it.")


def test_a_mistyped_word_is_answered_with_near_ones_only() -> None:
    assert nearest("resnet81", ["resnet18", "vgg16"]) == "Did you mean resnet18?"
    assert nearest("zzzz", ["resnet18"]) == ""


def test_an_absent_package_is_named_with_its_extra() -> None:
    with pytest.raises(ExtraMissingError, match=r"not installed.*headstart\[web\]"):
        require("no_such_package_anywhere", "web", "The server")
    assert require("json", "web", "The server").__name__ == "json"


@pytest.mark.parametrize(
    "body",
    [
        "import no_such_library_below",
        "raise ImportError('libGL.so.1: cannot open')",
        "from broken_toy import no_such_name",
    ],
)
def test_a_package_that_is_there_but_broken_is_not_called_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    (tmp_path / "broken_toy.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ExtraMissingError, match=r"cannot be imported \(.*(no_such|libGL)"):
        require("broken_toy", "web", "The server")


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.ENOSPC, MachineError, "disk is full"),
        (errno.EDQUOT, MachineError, "disk is full"),
        (errno.EFBIG, MachineError, "disk is full"),
        (errno.EIO, MachineError, os.strerror(errno.EIO)),
        (errno.EACCES, RunFolderError, "permission denied"),
        (errno.EROFS, RunFolderError, "permission denied"),
        (errno.ENOTDIR, RunFolderError, "is not a folder"),
        (errno.EEXIST, RunFolderError, "is not a folder"),
        (errno.EISDIR, RunFolderError, "a folder has this name"),
        (errno.ENAMETOOLONG, RunFolderError, "too long"),
        (errno.ELOOP, RunFolderError, "circle"),
        (errno.ENOENT, RunFolderError, "gone"),
    ],
)
def test_each_refusal_of_the_system_becomes_what_the_user_can_act_on(
    code: int, kind: type[HeadstartError], words: str
) -> None:
    error = from_os(OSError(code, os.strerror(code)), "Could not write", "some/path")
    assert type(error) is kind
    assert words in str(error)
    assert "some/path" in str(error)


def test_within_told_only_refusals_of_the_system_are_translated() -> None:
    with pytest.raises(RunFolderError, match="Could not look: permission denied: here"):
        with told("Could not look", "here"):
            raise PermissionError(errno.EACCES, "no")
    with pytest.raises(ZeroDivisionError), told("Could not look", "here"):
        _ = 1 / 0
