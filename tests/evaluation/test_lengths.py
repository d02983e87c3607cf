"""Length distances against scipy and exact values."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from flexmdm_jax.evaluation.lengths import (
    kolmogorov_smirnov,
    length_distances,
    total_variation,
    wasserstein1,
)

samples = st.lists(st.integers(0, 40), min_size=1, max_size=50)


@given(samples, samples)
def test_distances_agree_with_scipy(a, b):
    x, y = np.array(a), np.array(b)
    np.testing.assert_allclose(wasserstein1(x, y), scipy.stats.wasserstein_distance(a, b))
    np.testing.assert_allclose(kolmogorov_smirnov(x, y), scipy.stats.ks_2samp(a, b).statistic)


@given(samples, samples, st.integers(1, 9))
def test_total_variation_is_the_largest_difference_over_sets_of_bins(a, b, width):
    bins = sorted({value // width for value in a + b})
    share = lambda sample, bin_: sum(v // width == bin_ for v in sample) / len(sample)  # noqa: E731
    gains = [share(a, bin_) - share(b, bin_) for bin_ in bins]
    expected = sum(gain for gain in gains if gain > 0)
    np.testing.assert_allclose(
        total_variation(np.array(a), np.array(b), width), expected, atol=1e-12
    )


def test_far_apart_lengths():
    figures = length_distances([1] * 5, [11] * 3, bin_width=4)
    assert figures == {
        "length_tv": 1.0,
        "length_w1": pytest.approx(10.0),
        "length_ks": pytest.approx(1.0),
    }
