"""Running a section: here, or in a process of its own that can crash and hang alone."""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import jax

from benchmarks.gpu_sections.section import Context, Row, Section
from benchmarks.step_processes import end_with_parent
from flexmdm_jax.errors import UserError, first_line


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a section ended.

    Attributes:
      status: passed, failed or stopped; skipped if it did not begin.
      seconds: It took.
      error: What went wrong, in a line.
      traceback: Of it.
    """

    status: str
    seconds: float = 0.0
    error: str = ""
    traceback: str = ""


@dataclasses.dataclass(frozen=True)
class Failure:
    """What a section raised, or how its process ended.

    Attributes:
      status: failed or stopped.
      error: In a line.
      traceback: Of it.
    """

    status: str
    error: str
    traceback: str = ""

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Returns that of an exception."""
        told = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return cls("failed", told + first_line(error), "".join(traceback.format_exception(error)))


# Seconds for a process to leave.
_PATIENCE = 5.0
# Yields rows, and a Failure last if there was one.
Run = Callable[[Section, Context, float], Iterator[Row | Failure]]


def outcome_of(
    run: Run, section: Section, context: Context, limit: float, keep: Callable[[Row], None]
) -> Outcome:
    """Returns how a section ended.

    Args:
      run: here() or apart().
      section: To run.
      context: What it is given.
      limit: Seconds that it may take.
      keep: Called with each of its rows as soon as it is there.
    """
    started, failure, wrong = time.monotonic(), None, []
    with contextlib.closing(run(section, context, limit)) as found:
        for x in found:
            if isinstance(x, Failure):
                failure = x
                continue
            keep(x)
            wrong += [x.name] if x.passed is False else []
    seconds = time.monotonic() - started
    if failure:
        return Outcome(failure.status, seconds, failure.error, failure.traceback)
    if wrong:
        return Outcome("failed", seconds, f"not as it has to be: {'; '.join(wrong)}")
    return Outcome("passed", seconds)


def here(section: Section, context: Context, limit: float) -> Iterator[Row | Failure]:
    """Yields what a section finds in this process, which no limit stops."""
    del limit
    try:
        yield from section.run(context)
    except Exception as error:
        yield Failure.of(error)


def apart(section: Section, context: Context, limit: float) -> Iterator[Row | Failure]:
    """Yields what a section finds in a process of its own, which is killed at the limit."""
    started, patience = time.monotonic(), 0.0
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    child = spawn.Process(target=_work, args=(section, context, theirs))
    child.start()
    theirs.close()
    try:
        while True:
            if not ours.poll(max(0.0, started + limit - time.monotonic())):
                yield Failure("stopped", f"stopped after {limit:.0f} s")
                return
            found = ours.recv()
            if found is None:
                patience = _PATIENCE
                return
            yield found
    except EOFError:
        # It may not even manage to end.
        child.join(timeout=_PATIENCE)
        yield Failure("failed", f"its process ended with status {child.exitcode}")
    finally:
        ours.close()
        _end(child, patience)


def _end(child: Any, patience: float) -> None:
    """Ends a process and those that it started, if it does not end by itself within seconds."""
    child.join(timeout=patience)
    if child.is_alive():
        # It leads a group of its own once it works; until then it is alone.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.kill()
        child.join()


def _work(section: Section, context: Context, results: Connection) -> None:
    os.setsid()
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    for found in here(Section(section.name, 0, _with_devices(section)), context, 0):
        results.send(found)
    results.send(None)


def _with_devices(section: Section) -> Callable[[Context], Iterator[Row]]:
    """Returns the section's function, with the devices that it needs set up before."""

    def run(context: Context) -> Iterator[Row]:
        asked = os.environ.get("JAX_PLATFORMS", "")
        if section.on_host:
            jax.config.update("jax_platforms", "cpu")
        elif asked and "cpu" not in asked.split(","):
            # The GPU is compared with the CPU.
            jax.config.update("jax_platforms", f"{asked},cpu")
        if context.sizes.needs_gpu and not section.on_host and jax.default_backend() != "gpu":
            raise UserError("JAX finds no GPU here; --sizes=tiny runs on a CPU")
        yield from section.run(context)

    return run
