"""The door to the command line: run what was typed, turn every error into a sentence and an exit code.

Exit codes: 0 done; 2 arguments, data, permissions, run folders; 1 the machine or our own fault;
130 and 143 after Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from headstart.cli import app
from headstart.errors import HeadstartError, nearest, show

INTERRUPTED, TERMINATED = 130, 143
# The base of everything that the argument parser refuses; typer carries a parser of its own.
USAGE_ERROR: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


def main() -> None:
    """Entry point: run the command that was typed, and leave with its exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    warnings.showwarning = _show_warning
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure"):  # a terminal that knows no such letter shows its code
            stream.reconfigure(errors="backslashreplace")
    raise SystemExit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run a command; every known error becomes one sentence on stderr and an exit code."""
    try:
        code = app(list(arguments), prog_name="headstart", standalone_mode=False)
        sys.stdout.flush()
    except HeadstartError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except MemoryError:
        return _fail("The machine is out of memory. Try a smaller --size or fewer images.", 1)
    except BrokenPipeError:
        return _nobody_reads()
    except typer.Exit as stop:
        code = stop.exit_code
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # the argument parser caught it first
            return _nobody_reads()
        code = stop.code if isinstance(stop.code, int) else 1
    except USAGE_ERROR as error:
        return _fail(_usage(error), 2)
    except Exception as error:
        return _fault(error)
    if code in (INTERRUPTED, TERMINATED):
        return _fail("stopped", code)
    return code if isinstance(code, int) else 0


def _usage(error: Any) -> str:
    """One sentence for what the argument parser refused, and where to look."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return f"a command is needed\n\n{error.format_message()}"
    message = str(error.format_message())
    if (option := getattr(error, "option_name", None)) and hasattr(error, "possibilities"):
        known = [flag for param in error.ctx.command.params for flag in param.opts]
        message = f"There is no flag {show(option)}. {nearest(option, known, 1)}".strip()
    message += "" if message.endswith((".", "?")) else "."
    return f"{message} See: {error.ctx.command_path if error.ctx else 'headstart'} --help"


def _fault(error: Exception) -> int:
    """A fault of our own, with the place to report."""
    if os.environ.get("HEADSTART_DEBUG"):
        traceback.print_exc()
    place = traceback.extract_tb(error.__traceback__)[-1]
    return _fail(
        f"A fault in headstart: {type(error).__name__}: {show(error)[:300]} "
        f"({Path(place.filename).name}:{place.lineno}). Set HEADSTART_DEBUG=1 to see where, and "
        "please report it.",
        1,
    )


def _nobody_reads() -> int:
    """The reader of our output wanted no more (`| head`): that is no failure."""
    for stream in (sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()  # type: ignore[union-attr]
            continue
        with contextlib.suppress(AttributeError, OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[union-attr]
    return 0


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"headstart: {message}\n")
    return code


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    sys.stderr.write(f"warning: {show(message)}\n")


if __name__ == "__main__":
    main()
