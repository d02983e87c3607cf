"""How sure a figure of many examples is, and the difference of two: the bootstrap."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

# A figure of examples, from how often each of them counts.
Statistic = Callable[[Int[np.ndarray, "n"]], float]


def _draws(size: int, num: int, seed: int) -> Iterator[Int[np.ndarray, "n"]]:
    """Yields how often each example is drawn, in draws with replacement of as many as there are."""
    rng = np.random.default_rng(seed)
    for _ in range(num):
        yield np.bincount(rng.integers(size, size=size), minlength=size)


def with_error(
    name: str, statistic: Statistic, size: int, *, seed: int = 0, num: int = 200
) -> dict[str, float]:
    """Returns a figure under its name, and its standard error as `name_error`.

    The error is the standard deviation over draws with replacement (Efron and Tibshirani, 1993,
    chapter 6). A divergence of a sample is biased as well, upwards: no error tells by how much, but
    a control of as many examples does.

    Args:
      name: Of the figure.
      statistic: It, from how often each example counts.
      size: Examples; the error of fewer than two is NaN.
      seed: Decides the draws.
      num: Draws.
    """
    error = float("nan")
    if size > 1:
        error = np.std([statistic(counts) for counts in _draws(size, num, seed)], ddof=1)
    return {name: float(statistic(np.ones(size, int))), f"{name}_error": float(error)}


class Difference(NamedTuple):
    """How much larger a figure is than a baseline's on the same examples.

    Attributes:
      value: The difference.
      low: Lower end of its 95% interval.
      high: Upper end.
      p: Two-sided level at which it differs from 0; at least one over the draws.
    """

    value: float
    low: float
    high: float
    p: float


def paired_difference(
    statistic: Statistic, size: int, *, seed: int = 0, num: int = 2_000
) -> Difference:
    """Returns the difference of two figures by the paired bootstrap.

    Each draw takes the same examples for both, so that what makes an example hard for both cancels
    (Koehn, 2004). The interval is that of percentiles.

    Args:
      statistic: The difference, from how often each example counts.
      size: Examples, at least one; of fewer than two interval and level are NaN.
      seed: Decides the draws.
      num: Draws. If the difference has no value in one of them, interval and level have none.
    """
    value = float(statistic(np.ones(size, int)))
    values = np.array([statistic(counts) for counts in _draws(size, num, seed)])
    if size < 2 or np.isnan(values).any():
        return Difference(value, *3 * [float("nan")])
    low, high = np.quantile(values, [0.025, 0.975])
    beyond = min(np.mean(values <= 0), np.mean(values >= 0))
    level = min(1.0, max(2 * beyond, 1 / num))
    return Difference(value, float(low), float(high), float(level))
