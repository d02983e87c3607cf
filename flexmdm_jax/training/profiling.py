"""A profile of some steps, for TensorBoard's or XProf's trace viewer."""

import dataclasses
import pathlib
import re

import jax

from flexmdm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Window:
    """Steps to profile, both included, counted from 1.

    Attributes:
      first: None profiles nothing.
      last: Not before first.
    """

    first: int | None = None
    last: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Window":
        """Returns the window written as `first:last`; empty for none.

        Raises:
          UserError: If that is not how it is written.
        """
        if not text:
            return NO_PROFILE
        match = re.fullmatch(r"(\d+):(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"--profile={text}: write first:last, two steps, as in 20:24")
        return cls(int(match[1]), int(match[2]))

    def check(self, start: int, num_steps: int) -> None:
        """Raises UserError unless all its steps are taken by a run that goes on after step start.

        Of a window that begins before the run is taken up, the rest is profiled.
        """
        if self.first is None:
            return
        text = f"--profile={self.first}:{self.last}"
        if self.last > num_steps:
            raise UserError(f"{text}: training ends with step {num_steps:,}; name earlier steps")
        if self.last <= start:
            raise UserError(f"{text}: the run goes on after step {start:,}; name later steps")


NO_PROFILE = Window()


class Profiler:
    """Traces the steps of a window into workdir/profile, each process its own devices."""

    def __init__(self, window: Window, workdir: pathlib.Path):
        """Prepares."""
        self._window = window
        self._folder = str(workdir / "profile")
        self._running = False

    def before(self, step: int) -> None:
        """Starts with the window's first step, or later if the run is taken up within it."""
        first, last = self._window.first, self._window.last
        if first is not None and not self._running and first <= step <= last:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def after(self, step: int, result) -> None:
        """Stops behind the window's last step, once its result is there."""
        if self._running and step >= self._window.last:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Writes what has been traced."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
