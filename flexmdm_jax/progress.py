"""Progress bars: redrawn in place on a terminal, a line now and then in a file."""

import io
import math
import sys
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

# Seconds between two lines of a file.
_PAUSE = 30.0


def progress_bar(values: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """Returns a bar of tqdm on standard error.

    Args:
      values: What it goes through, if it is to be iterated over.
      **options: tqdm's, such as total and desc.
    """
    # What is taken up again says at once how far it was.
    lines = _Lines(sys.stderr, -math.inf if options.get("initial") else time.monotonic())
    return tqdm(values, file=sys.stderr if sys.stderr.isatty() else lines, **options)


class _Lines:
    """A file for bars that nobody sees move: of all their states, one every half minute."""

    def __init__(self, file: io.TextIOBase, told: float):
        self._file = file
        self._state = ""
        self._told = told

    def write(self, text: str) -> None:
        """Takes what tqdm writes: a carriage return before each state, a line's end at the last."""
        if text.startswith("\r"):
            self._state = text.strip()
            if time.monotonic() - self._told >= _PAUSE:
                self._tell()
        elif text == "\n":
            self._tell()

    def _tell(self) -> None:
        if self._state:
            self._file.write(f"{self._state}\n")
            self._file.flush()
            self._state, self._told = "", time.monotonic()

    def flush(self) -> None:
        """Does nothing: lines are flushed as they are written."""
