"""How far apart two samples of integer lengths are."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


def histogram(
    lengths: Int[np.ndarray, "n"], size: int, bin_width: int = 1
) -> Float[np.ndarray, "m"]:
    """Returns the share of lengths 0..size-1 in each bin of bin_width neighbouring lengths."""
    counts = np.bincount(lengths // bin_width, minlength=-(-size // bin_width))
    return counts / len(lengths)


def total_variation(a: Int[np.ndarray, "n"], b: Int[np.ndarray, "m"], bin_width: int = 1) -> float:
    """Returns half the summed difference of the two histograms, between 0 and 1."""
    size = int(max(a.max(), b.max())) + 1
    return float(0.5 * np.abs(histogram(a, size, bin_width) - histogram(b, size, bin_width)).sum())


def distance_to_law(lengths: Int[np.ndarray, "n"], law: Float[np.ndarray, "l"]) -> float:
    """Returns the total variation between the lengths and a law, between 0 and 1.

    Args:
      lengths: They.
      law: The probability of each length, from 0 on.
    """
    size = max(int(lengths.max()) + 1, len(law))
    difference = histogram(lengths, size) - np.pad(law, (0, size - len(law)))
    return float(0.5 * np.abs(difference).sum())


def _cumulative_difference(a, b) -> Float[np.ndarray, "m"]:
    size = int(max(a.max(), b.max())) + 1
    return np.abs(np.cumsum(histogram(a, size)) - np.cumsum(histogram(b, size)))


def wasserstein1(a: Int[np.ndarray, "n"], b: Int[np.ndarray, "m"]) -> float:
    """Returns the earth mover's distance in tokens: the area between the cumulative histograms."""
    return float(_cumulative_difference(a, b).sum())


def kolmogorov_smirnov(a: Int[np.ndarray, "n"], b: Int[np.ndarray, "m"]) -> float:
    """Returns the largest difference of the cumulative histograms, between 0 and 1."""
    return float(_cumulative_difference(a, b).max())


def length_distances(
    lengths: Sequence[int], reference: Sequence[int], bin_width: int
) -> dict[str, float]:
    """Returns total variation (in bins), Wasserstein-1 (tokens) and Kolmogorov-Smirnov."""
    a, b = np.asarray(lengths, int), np.asarray(reference, int)
    return {
        "length_tv": total_variation(a, b, bin_width),
        "length_w1": wasserstein1(a, b),
        "length_ks": kolmogorov_smirnov(a, b),
    }
