"""How long a program takes on a device, compiling left out."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

# Calls under way at once, so that what the host does between them is not counted.
_CALLS = 20


def median_seconds(fn: Callable, *args: Any, seconds: float) -> float:
    """Returns the seconds of a call, the median over repetitions of several calls.

    Args:
      fn: What is timed; its results are arrays of JAX.
      *args: Of it.
      seconds: To spend on it, about; three repetitions are made at least.
    """
    for _ in range(2):
        jax.block_until_ready(fn(*args))
    once = _seconds(fn, args, 1)
    calls = max(1, min(_CALLS, int(seconds / (10 * once))))
    repetitions = max(3, min(15, int(seconds / (calls * once))))
    return statistics.median(_seconds(fn, args, calls) for _ in range(repetitions))


def _seconds(fn: Callable, args: tuple, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        last = fn(*args)
    jax.block_until_ready(last)
    return (time.perf_counter() - started) / calls
