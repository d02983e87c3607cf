"""Step times, use of the chips, profiles: figures against a clock and devices made up for it."""

import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from commands import environment

from flexmdm_jax.errors import UserError
from flexmdm_jax.training import logging
from flexmdm_jax.training.logging import Stopwatch, memory_in_use, utilization
from flexmdm_jax.training.profiling import NO_PROFILE, Profiler, Window


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is told to move."""
    now = types.SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(logging.time, "perf_counter", lambda: now.seconds)
    return now


def test_times_are_those_of_steps_without_evaluations_and_saves(clock):
    watch = Stopwatch()
    for duration in (1.0, 2.0, 3.0, 10.0):
        with watch.waiting_for_input():
            clock.seconds += duration / 4
        clock.seconds += duration * 3 / 4
        watch.step()
        watch.pause()
        clock.seconds += 1000.0
        watch.resume()
    figures = watch.lap()
    assert figures["steps_per_second"] == pytest.approx(4 / 16)
    assert figures["input_wait"] == pytest.approx(0.25)
    assert figures["step_seconds_p50"] == pytest.approx(2.5)
    expected = np.percentile([1, 2, 3, 10], [90, 99])
    np.testing.assert_allclose([figures["step_seconds_p90"], figures["step_seconds_p99"]], expected)
    clock.seconds += 5.0
    watch.step()
    assert watch.lap()["step_seconds_p99"] == pytest.approx(5.0), "laps do not mix"


def test_utilization_is_the_share_of_all_chips_peaks():
    v5e = types.SimpleNamespace(device_kind="TPU v5 lite")
    # 197 TFLOP/s each, by the data sheet.
    assert utilization(197e12, [v5e] * 4) == {"mfu": 0.25}
    assert utilization(1e12, [types.SimpleNamespace(device_kind="cpu")]) == {}


def test_memory_is_shown_where_a_device_tells():
    full = {"peak_bytes_in_use": 6 << 30, "bytes_limit": 16 << 30}
    device = types.SimpleNamespace(memory_stats=lambda: full)
    assert memory_in_use(device) == {"hbm_peak_bytes": 6.0 * 2**30, "hbm_peak_share": 0.375}
    assert memory_in_use(types.SimpleNamespace(memory_stats=lambda: None)) == {}


WRITES = """
import importlib.util, pathlib, sys
from flexmdm_jax.training.logging import MetricsWriter
writer = MetricsWriter(pathlib.Path(sys.argv[1]))
writer.write(1, {"loss": 2.0})
writer.close()
assert not [name for name in sys.modules if name.partition(".")[0] == "torch"]
assert importlib.util.find_spec("torch")
"""


def test_metrics_are_written_without_pytorch_which_can_be_imported_later(tmp_path):
    command = [sys.executable, "-c", WRITES, tmp_path]
    subprocess.run(command, env=environment(), check=True)
    [board] = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in board.read_bytes()


@pytest.mark.parametrize(
    ("window", "steps", "traced"),
    [("3:4", range(1, 8), [3, 4]), ("3:4", range(4, 8), [4]), ("3:4", range(5, 8), [])],
)
def test_a_profile_holds_the_steps_of_its_window(monkeypatch, tmp_path, window, steps, traced):
    tracing, seen = [], []
    monkeypatch.setattr(jax.profiler, "start_trace", tracing.append)
    monkeypatch.setattr(jax.profiler, "stop_trace", tracing.clear)
    profiler = Profiler(Window.parse(window), tmp_path)
    for step in steps:
        profiler.before(step)
        seen += [step] if tracing else []
        profiler.after(step, jax.numpy.zeros(()))
    assert seen == traced
    assert not tracing


@pytest.mark.parametrize("text", ["3", "4:3", "0:2", "a:b", "1:2:3"])
def test_a_window_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="first:last"):
        Window.parse(text)
    assert Window.parse("") == NO_PROFILE
