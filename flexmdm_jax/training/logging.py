"""Metrics to a JSON-lines file and to TensorBoard, and a progress bar."""

import json
import pathlib
import sys
import time

import jax
import tensorboardX
from tqdm import tqdm


class MetricsWriter:
    """Appends metrics to workdir/metrics.jsonl and TensorBoard files; only process 0 writes."""

    def __init__(self, workdir: pathlib.Path):
        """Opens the files."""
        self._active = jax.process_index() == 0
        if self._active:
            self._file = (workdir / "metrics.jsonl").open("a")
            self._board = tensorboardX.SummaryWriter(str(workdir / "tensorboard"))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes one line of metrics after a step."""
        if self._active:
            self._file.write(json.dumps({"step": step, **metrics}) + "\n")
            self._file.flush()
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._active:
            self._file.close()
            self._board.close()


class Progress:
    """A progress bar with loss, tokens/s and ETA."""

    def __init__(self, start: int, total: int):
        """Starts at a step, and says so if it is not the first."""
        silent = jax.process_index() != 0
        if start and not silent:
            tqdm.write(f"taking the run up after step {start:,}", file=sys.stderr)
        self._bar = tqdm(initial=start, total=total, desc="train", unit="step", disable=silent)

    def advance(self) -> None:
        """Counts one step."""
        self._bar.update()

    def show(self, loss: float, tokens_per_second: float) -> None:
        """Shows the newest figures."""
        self._bar.set_postfix_str(f"loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s")

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()


class Stopwatch:
    """Seconds spent training; evaluations and saves are taken out by pausing."""

    def __init__(self):
        """Starts running."""
        self._spent = 0.0
        self._since = time.perf_counter()

    def pause(self) -> None:
        """Stops counting."""
        self._spent += time.perf_counter() - self._since

    def resume(self) -> None:
        """Counts on."""
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Returns the seconds counted since the last lap, and starts anew."""
        self.pause()
        seconds, self._spent = self._spent, 0.0
        self.resume()
        return seconds
