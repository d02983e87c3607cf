"""The divergence curve against its definition, and sets of features that are known."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from flexmdm_jax.evaluation.mauve import area, mauve

weights = st.lists(st.floats(0.05, 1.0), min_size=4, max_size=4)


@settings(max_examples=20, deadline=None)
@given(weights, weights)
def test_the_area_is_that_under_the_curve(a, b):
    """The curve's y as a function of x, integrated by quadrature."""
    p, q = (np.array(x) / sum(x) for x in (a, b))

    def point(mixture):
        r = mixture * p + (1 - mixture) * q
        return [np.exp(-5 * scipy.stats.entropy(law, r)) for law in (q, p)]

    def strip(mixture):
        step = 1e-6
        x = [point(m)[0] for m in (mixture - step, mixture + step)]
        return point(mixture)[1] * (x[0] - x[1]) / (2 * step)

    inner = scipy.integrate.quad(strip, 1e-5, 1 - 1e-5, limit=100)[0]
    # From the axis to the curve's beginning, where y is all that x leaves: a rectangle at its end.
    (_, first), (last, _) = point(0.0), point(1.0)
    triangle = 0.5 * last * (1 + 1.0)
    assert first <= 1
    expected = inner + triangle
    assert area(p, q) == pytest.approx(expected, abs=3e-3)


def test_equal_sets_are_one_disjoint_ones_nearly_none_and_the_order_is_right():
    rng = np.random.default_rng(0)
    base, same = rng.normal(size=(300, 8)), rng.normal(size=(300, 8))
    values = []
    for shift in (0.0, 0.5, 1.0, 4.0):
        found = mauve(same + shift * np.eye(8)[0], base)
        values.append(found["mauve"])
        assert 0 < found["mauve_error"] < 0.2
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.9
    assert values[-1] < 0.3
    assert mauve(base, base)["mauve"] == pytest.approx(1.0, abs=1e-3)


def test_turning_the_features_changes_nothing():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(80, 5)), 0.3 + rng.normal(size=(80, 5))
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert mauve(a @ turn, b @ turn)["mauve"] == pytest.approx(mauve(a, b)["mauve"], abs=1e-6)


def test_too_few_texts_have_none():
    assert np.isnan(mauve(np.zeros((1, 3)), np.ones((5, 3)))["mauve"])
