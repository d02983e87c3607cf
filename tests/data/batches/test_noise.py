"""An example's time and noise: its number's alone, evenly spread, independent."""

import numpy as np
import pytest
from scipy import stats

from flexmdm_jax.data.batches.noise import Noise


def test_noise_depends_on_seed_and_number_alone():
    noise = Noise(seed=3)
    together = noise.levels(np.array([5, 2**40, 6]), np.array([4, 2, 7]))
    np.testing.assert_array_equal(noise.levels(np.array([2**40]), np.array([2])), together[4:6])
    longer = noise.levels(np.array([5]), np.array([9]))
    np.testing.assert_array_equal(longer[:4], together[:4])
    assert not np.isin(noise.levels(np.array([7]), np.array([9])), longer).any()
    assert not np.isin(Noise(seed=4).levels(np.array([5]), np.array([9])), longer).any()
    numbers = np.array([9, 2, 2**40])
    for part in (0, 1):
        np.testing.assert_array_equal(
            noise.times(numbers)[part][1], noise.times(numbers[1:2])[part][0]
        )
    assert noise.times(numbers)[0][0] != Noise(seed=4).times(numbers)[0][0]


def test_levels_are_uniform_and_independent():
    n = 4000
    levels = Noise(seed=1).levels(np.arange(n), np.full(n, 3)).reshape(n, 6)
    assert stats.kstest(levels.ravel(), "uniform").pvalue > 1e-3
    # Across tokens, kinds of event and neighbouring examples.
    both = np.concatenate([levels[:-1], levels[1:]], axis=1)
    correlation = np.corrcoef(both, rowvar=False) - np.eye(12)
    assert np.abs(correlation).max() < 4.5 / n**0.5


@pytest.mark.parametrize("first", [0, 12_345, 2**33])
@pytest.mark.parametrize("n", [50, 64, 300])
def test_times_of_any_window_are_spread_like_strata(first, n):
    """Golden-ratio steps leave no gap larger than 1.618 / n and a bit (three-distance theorem)."""
    t, weight = Noise(seed=0).times(first + np.arange(n))
    assert (weight == 1).all()
    gaps = np.diff(np.sort(t), append=1 + t.min())
    assert gaps.max() < 1.9 / n
    # A uniform draw in each stratum has a discrepancy of about 1 / n; independent draws 1 / √n.
    assert stats.kstest(t, "uniform").statistic < 2.5 / n


def test_warped_times_carry_the_weight_of_their_density():
    """The mean of weight · f(t) is the integral of f, here of 1 and of t²."""
    t, weight = Noise(seed=2, time_warp=3.0).times(np.arange(20_000))
    assert np.mean(weight) == pytest.approx(1, abs=1e-3)
    assert np.mean(weight * t.astype(float) ** 2) == pytest.approx(1 / 3, abs=1e-3)
    assert t.max() < 1
    assert np.median(t) > 0.8
