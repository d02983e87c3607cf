"""Variants of a training step, each in a process of its own, that take turns."""

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any
from unittest import mock

import jax

from benchmarks.memory import free_unused, peak_megabytes, reset_peak
from benchmarks.trainings import LAYOUTS, Ours, Torch, Training, Turn
from flexmdm_jax.config import Config
from flexmdm_jax.data.storage.records import open_dataset
from flexmdm_jax.errors import UserError, first_line

# Names of the baseline's variants, and whether they are compiled.
TORCH = {"PyTorch": False, "PyTorch, compiled": True}
# As the Makefile runs trainings: glibc keeps what it has instead of giving it back every step.
KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}
# Processes share a GPU, which JAX would take for itself.
_ENVIRONMENT = KEEP_MEMORY | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@dataclasses.dataclass(frozen=True)
class Variant:
    """What a process trains: a method with one of our layouts, or with the baseline.

    Attributes:
      method: flexmdm or mdm.
      name: Of the layout, or a name in TORCH.
    """

    method: str
    name: str

    def training(self, config: Config, device: str) -> Training:
        """Returns its training at the first step."""
        dataset = open_dataset(config.data.path)
        if self.name in TORCH:
            return Torch(config, dataset, compiled=TORCH[self.name], device=device)
        return Ours(_LAYOUTS[self.name].config(config), dataset)

    def steps(self, least: int) -> int:
        """Returns how many steps make a turn."""
        multiple = 1 if self.name in TORCH else _LAYOUTS[self.name].steps
        return -(-least // multiple) * multiple


_LAYOUTS = {layout.name: layout for layout in LAYOUTS}


def variants(method: str) -> list[Variant]:
    """Returns all variants of a method, ours first."""
    ours = [layout.name for layout in LAYOUTS if method in layout.methods]
    return [Variant(method, name) for name in (*ours, *TORCH)]


class _Child:
    """What runs in the process of a variant; there is one at a time."""

    training: Training
    before: float


def _begin(variant: Variant, config: Config, device: str, steps: int) -> None:
    """Makes the variant's training and takes a turn, so that all is compiled.

    Raises:
      UserError: If the device or PyTorch is lacking, or PyTorch cannot compile.
    """
    # Ctrl-C ends this process without a word; its parent says what there is to say.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=end_with_parent, daemon=True).start()
    if is_torch := variant.name in TORCH:
        _import_torch(device)
    _start_jax("cpu" if is_torch else device)
    # What was imported is no cost of training.
    _Child.before = peak_megabytes() if device == "cpu" else 0.0
    _Child.training = variant.training(config, device)
    try:
        _Child.training.turn(steps)
    except Exception as error:
        # Exceptions of PyTorch's compiler do not survive the way to another process.
        if not is_torch:
            raise
        raise UserError(f"{type(error).__name__}: {first_line(error)}") from None
    if device == "cpu":
        # What compiling took is none either.
        free_unused()
        reset_peak()


def end_with_parent() -> None:
    """Ends this process when the one that started it has ended, were it killed."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _start_jax(device: str) -> None:
    jax.config.update("jax_platforms", {"cpu": "cpu", "gpu": "cuda"}[device])
    try:
        jax.devices()
    except (RuntimeError, AssertionError):
        # The second is what JAX says where it knows the kind of device and finds none.
        raise UserError("--device=gpu: JAX finds no GPU here; leave it out") from None


def _import_torch(device: str) -> None:
    try:
        import torch
    except ImportError:
        raise UserError("PyTorch is not installed: pip install -r requirements-dev.txt") from None
    if device == "gpu" and not torch.cuda.is_available():
        raise UserError("PyTorch finds no GPU here; its CUDA build is needed")


def _turn(steps: int) -> Turn:
    return _Child.training.turn(steps)


def _costs() -> tuple[float, float]:
    training = _Child.training
    return training.peak_megabytes() - _Child.before, training.compile_seconds


class Competitor:
    """A variant in its process, which has taken its first turn."""

    def __init__(self, variant: Variant, config: Config, device: str, least_steps: int):
        """Starts the process.

        Args:
          variant: What it trains.
          config: The experiment, whose layout the variant replaces.
          device: cpu or gpu.
          least_steps: A turn has so many steps, or a few more if the layout wants it.
        """
        self.variant, self._steps = variant, variant.steps(least_steps)
        self._process = concurrent.futures.ProcessPoolExecutor(
            max_workers=1, mp_context=multiprocessing.get_context("spawn")
        )
        try:
            with mock.patch.dict(os.environ, _ENVIRONMENT):
                self._ask(_begin, variant, config, device, self._steps)
        except BaseException:
            self.close()
            raise

    def _ask(self, fn: Any, *arguments: Any) -> Any:
        try:
            return self._process.submit(fn, *arguments).result()
        except BrokenProcessPool:
            raise UserError(
                f"{self.variant.method}, {self.variant.name}: its process was killed; is there "
                "enough memory?"
            ) from None

    def turn(self) -> Turn:
        """Runs a turn."""
        return self._ask(_turn, self._steps)

    def costs(self) -> tuple[float, float]:
        """Returns (megabytes that steps held beyond what is imported, seconds of first steps)."""
        return self._ask(_costs)

    def close(self) -> None:
        """Ends the process."""
        self._process.shutdown()


@contextlib.contextmanager
def all_ready(
    wanted: list[Variant], config: Config, device: str, least_steps: int
) -> Iterator[tuple[list[Competitor], list[str]]]:
    """Gives (competitors that have taken their first turn, what failed of the baseline).

    Raises:
      UserError: If one of ours fails for what the user can mend.
    """
    ready, failures = [], []
    with contextlib.ExitStack() as held:
        for variant in wanted:
            print(f"{variant.method}, {variant.name}: first steps", file=sys.stderr, flush=True)
            try:
                competitor = Competitor(variant, config, device, least_steps)
            except UserError as error:
                if variant.name not in TORCH:
                    raise
                failures.append(f"{variant.method}, {variant.name}: {error}")
                continue
            held.callback(competitor.close)
            ready.append(competitor)
        yield ready, failures
