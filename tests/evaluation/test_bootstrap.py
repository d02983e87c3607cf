"""Errors of figures against the formula for a mean, and differences that are there or not."""

import math

import numpy as np
import pytest

from flexmdm_jax.evaluation.bootstrap import paired_difference, with_error


def mean_of(values):
    return lambda counts: (counts * values).sum() / counts.sum()


def test_the_error_of_a_mean_is_that_of_the_textbook():
    values = np.random.default_rng(1).exponential(3.0, 500)
    found = with_error("x", mean_of(values), 500, num=4_000)
    assert found["x"] == pytest.approx(values.mean())
    # The standard deviation of 4,000 draws is itself known to about 1.1 %.
    assert found["x_error"] == pytest.approx(values.std() / math.sqrt(500), rel=0.05)


def test_errors_follow_from_the_seed_and_one_example_has_none():
    values = np.array([1.0, 5.0, 2.0])
    one, two, other = (with_error("x", mean_of(values), 3, seed=seed) for seed in (0, 0, 1))
    assert one == two != other
    assert math.isnan(with_error("x", mean_of(values[:1]), 1)["x_error"])


def test_a_difference_on_the_same_examples_is_seen_through_what_they_share():
    rng = np.random.default_rng(2)
    shared = rng.normal(0, 100, 200)
    a, b = shared + rng.normal(1, 1, 200), shared + rng.normal(0, 1, 200)
    found = paired_difference(lambda n: mean_of(a)(n) - mean_of(b)(n), 200)
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(
        2 * 1.96 * (a - b).std() / math.sqrt(200), rel=0.1
    )
    assert found.p < 0.01
    # Unpaired, the examples' own differences would drown it.
    assert np.std(shared) / math.sqrt(200) > 5 * found.value


def test_no_difference_has_a_level_of_one():
    same = paired_difference(lambda counts: 0.0, 50)
    assert same == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("values", [[3.0], [1.0, math.nan, 2.0]])
def test_what_no_draw_can_tell_is_not_called_sure(values):
    """One example comes out alike in every draw, and NaN is on no side of zero."""
    found = paired_difference(mean_of(np.array(values)), len(values), num=50)
    assert np.isnan([found.low, found.high, found.p]).all()
    assert found.value == pytest.approx(np.mean(values), nan_ok=True)


def test_intervals_hold_what_they_promise():
    """Of 200 experiments without a difference about one in twenty is called one."""
    rng = np.random.default_rng(3)
    called = 0
    for trial in range(200):
        values = rng.normal(0, 1, 60)
        found = paired_difference(mean_of(values), 60, seed=trial, num=400)
        called += not found.low <= 0 <= found.high
    # Binomial(200, 0.06): the interval of percentiles is a little narrow at 60 examples.
    assert 2 <= called <= 26
