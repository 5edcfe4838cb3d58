"""The live line of a training run: epoch, loss, score, speed, time left."""

from __future__ import annotations

import contextlib
import sys
import time

from headstart.train.lesson import Moment

SECONDS_BETWEEN_LINES = 15.0
SECONDS_BETWEEN_DRAWINGS = 0.2


class LiveLine:
    """Called at every step; on a terminal one line is drawn again and again, elsewhere a plain line
    is printed every 15 seconds."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.live = sys.stderr is not None and sys.stderr.isatty()
        self.last = time.monotonic()

    def __call__(self, now: Moment) -> None:
        """Show where the run stands."""
        wait = SECONDS_BETWEEN_DRAWINGS if self.live else SECONDS_BETWEEN_LINES
        if time.monotonic() - self.last < wait:
            return
        self.last = time.monotonic()
        text = f"{self.label}: {words(now)}"
        self._write(f"\r\x1b[2K{text}" if self.live else f"{text}\n")

    def close(self) -> None:
        """Clear the line."""
        if self.live:
            self._write("\r\x1b[2K")

    def _write(self, text: str) -> None:
        with contextlib.suppress(AttributeError, OSError, ValueError):  # nobody is listening
            sys.stderr.write(text)
            sys.stderr.flush()


def words(now: Moment) -> str:
    """Where a run stands, in a few words.

    >>> words(Moment(2, 12, 30, 300, 0.51, 0.873, 1e-4, 31.6, 200.0))
    'epoch 2 of 12, loss 0.510, score 0.873, 32 img/s, 3 min 20 s left'
    """
    score = "" if now.score is None else f", score {now.score:.3f}"
    minutes, seconds = divmod(round(now.eta_s), 60)
    left = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    return (
        f"epoch {now.epoch} of {now.epochs}, loss {now.loss:.3f}{score}, {now.img_s:.0f} img/s, "
        f"{left} left"
    )
