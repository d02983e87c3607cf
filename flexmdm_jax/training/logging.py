"""Metrics to a JSON-lines file and to TensorBoard, and what they are made of."""

import contextlib
import json
import pathlib
import sys
import time
import types
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from flexmdm_jax.chips import chip_of
from flexmdm_jax.files import cut_torn_line, json_text


class MetricsWriter:
    """Appends metrics to workdir/metrics.jsonl and TensorBoard files; only process 0 writes."""

    def __init__(self, workdir: pathlib.Path):
        """Opens the files."""
        self._active = jax.process_index() == 0
        if self._active:
            self._path = workdir / "metrics.jsonl"
            cut_torn_line(self._path)
            self._file = self._path.open("a")
            self._board = _import_tensorboard().SummaryWriter(str(workdir / "tensorboard"))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes one line of metrics after a step; what is not finite is null there."""
        if self._active:
            self._file.write(json_text({"step": step, **metrics}) + "\n")
            self._file.flush()
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)

    def write_samples(self, step: int, samples: Sequence[dict[str, Any]]) -> None:
        """Writes texts of the moment after a step, to samples.jsonl and TensorBoard."""
        if not self._active:
            return
        lines = [json_text({"step": step, **sample}, ensure_ascii=False) for sample in samples]
        path = self._path.with_name("samples.jsonl")
        cut_torn_line(path)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
        # Markdown: an indented block keeps every character.
        block = lambda text: "\n".join(f"    {line}" for line in text.split("\n"))  # noqa: E731
        shown = [f"{x['length']} tokens\n\n{block(x['text'])}" for x in samples]
        self._board.add_text("samples", "\n\n".join(shown), step)

    def evaluated(self, step: int) -> bool:
        """Returns whether the file holds an evaluation after a step; process 0 knows."""
        if not self._active:
            return False
        found = map(json.loads, self._path.open())
        return any(x["step"] == step and any(n.startswith("eval/") for n in x) for x in found)

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._active:
            self._file.close()
            self._board.close()


def _import_tensorboard() -> types.ModuleType:
    """Returns tensorboardX without PyTorch, which it imports for its annotations, in seconds."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None
    try:
        import tensorboardX
    finally:
        if hidden:
            del sys.modules["torch"]
    return tensorboardX


class Stopwatch:
    """Seconds spent training, step by step; evaluations and saves are taken out by pausing."""

    def __init__(self):
        """Starts running."""
        self._since = time.perf_counter()
        self._spent = 0.0
        self._waited = 0.0
        self._steps: list[float] = []

    def pause(self) -> None:
        """Stops counting."""
        self._spent += time.perf_counter() - self._since

    def resume(self) -> None:
        """Counts on."""
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def waiting_for_input(self):
        """Counts the time within as spent waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def step(self) -> None:
        """Marks the end of a step."""
        self.pause()
        self.resume()
        self._steps.append(self._spent - sum(self._steps))

    def lap(self) -> dict[str, float]:
        """Returns figures of the steps since the last lap, and starts anew.

        steps_per_second; step_seconds_p50, _p90 and _p99; input_wait, the share of time spent
        waiting for data.
        """
        self.pause()
        seconds = self._spent
        median, slow, slowest = np.percentile(self._steps, [50, 90, 99])
        figures = {
            "steps_per_second": len(self._steps) / seconds,
            "step_seconds_p50": float(median),
            "step_seconds_p90": float(slow),
            "step_seconds_p99": float(slowest),
            "input_wait": self._waited / seconds,
        }
        self._spent, self._waited, self._steps = 0.0, 0.0, []
        self.resume()
        return figures


def utilization(flops_per_second: float, devices: Sequence[Any]) -> dict[str, float]:
    """Returns {"mfu": share of the devices' peak}, or nothing where the peak is not known."""
    chip = chip_of(devices[0].device_kind)
    return {"mfu": flops_per_second / (chip.peak_flops * len(devices))} if chip else {}


def memory_in_use(device: Any) -> dict[str, float]:
    """Returns the most bytes a device has held and the share of its memory, where it tells."""
    stats = device.memory_stats() or {}
    peak, limit = stats.get("peak_bytes_in_use"), stats.get("bytes_limit")
    figures = {} if peak is None else {"hbm_peak_bytes": float(peak)}
    return figures | ({"hbm_peak_share": peak / limit} if peak is not None and limit else {})
