"""Schedules against closed forms in float64, up to the last float32 before t = 1."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexmdm_jax.schedules import (
    SCHEDULES,
    Cosine,
    Geometric,
    Immediate,
    Linear,
    Polynomial,
    Power,
    Schedule,
    Sine,
)

KINDS = [
    Linear(),
    Polynomial(1.0),
    Polynomial(2.0),
    Polynomial(3.5),
    Power(1.0),
    Power(2.5),
    Sine(),
    Cosine(),
    Geometric(),
    Geometric(sigma_min=1e-4, sigma_max=20.0),
]
HALF_PI = np.longdouble("1.57079632679489661923")
LAST = np.float32(1 - 2**-24)
all_kinds = pytest.mark.parametrize("schedule", KINDS, ids=repr)


def survival(schedule, t):
    """Returns 1 - a(t) in extended precision, each from its definition."""
    t = np.asarray(t, np.longdouble)
    match schedule:
        case Linear():
            return 1 - t
        case Polynomial(power):
            return 1 - t ** np.longdouble(power)
        case Power(power):
            return (1 - t) ** np.longdouble(power)
        case Sine():
            # 1 - sin x = cos² x / (1 + sin x), without the cancellation near 1.
            return np.sin(HALF_PI * (1 - t)) ** 2 / (1 + np.sin(HALF_PI * t))
        case Cosine():
            return np.sin(HALF_PI * (1 - t))
        case Geometric(low, high):
            sigma = high * (np.longdouble(low) / np.longdouble(high)) ** t
            ends = np.exp(-np.longdouble(high)), np.exp(-np.longdouble(low))
            return (ends[1] - np.exp(-sigma)) / (ends[1] - ends[0])


def slope(schedule, t):
    """Returns a'(t) by central differences in extended precision."""
    t = np.asarray(t, np.longdouble)
    step = np.longdouble(2.0**-11) * np.minimum(t, 1 - t)
    return (survival(schedule, t - step) - survival(schedule, t + step)) / (2 * step)


GRID = np.concatenate([np.linspace(0.001, 0.999, 60), 1 - 2.0 ** -np.arange(8, 25)])
GRID = GRID.astype(np.float32)


@all_kinds
def test_runs_from_zero_to_one_and_rises(schedule):
    t = jnp.linspace(0, 1, 1001)
    a = np.asarray(schedule.at(t))
    np.testing.assert_allclose(a[[0, -1]], [0, 1], atol=1.2e-7)
    assert schedule.survival(jnp.ones(())) == 0
    assert (np.diff(a) > -1e-7).all()
    coarse = a[::50]
    assert (np.diff(coarse) > 0).all()


@all_kinds
def test_survival_keeps_its_relative_precision_to_the_last_float(schedule):
    got = np.asarray(schedule.survival(jnp.asarray(GRID)), np.float64)
    np.testing.assert_allclose(got, survival(schedule, GRID).astype(float), rtol=1e-5)
    np.testing.assert_allclose(schedule.at(jnp.asarray(GRID)), 1 - got, atol=2e-7)


@all_kinds
def test_hazard_is_slope_over_survival(schedule):
    expected = (slope(schedule, GRID) / survival(schedule, GRID)).astype(float)
    np.testing.assert_allclose(schedule.hazard(jnp.asarray(GRID)), expected, rtol=1e-4)


@all_kinds
def test_inverse_undoes_at(schedule):
    t = np.linspace(0.02, 0.98, 97).astype(np.float32)
    a = schedule.at(jnp.asarray(t))
    # One rounding of a(t) moves the time by 1 / a'(t) as much.
    allowed = 2e-6 + 4 * 2.0**-24 / slope(schedule, t).astype(float)
    assert (np.abs(np.asarray(schedule.inverse(a)) - t) < allowed).all()


@all_kinds
def test_inverse_stays_inside_the_unit_interval(schedule):
    u = jnp.asarray([0.0, 2.0**-24, 2.0**-12, 0.5, 1 - 2.0**-12, LAST, 1.0], jnp.float32)
    t = np.asarray(schedule.inverse(u))
    assert np.isfinite(t).all()
    assert t.min() >= 0
    assert t.max() <= 1
    assert t[-1] == pytest.approx(1.0)
    # The level a token draws is below a(t) if and only if its time has come, up to rounding.
    np.testing.assert_allclose(schedule.at(jnp.asarray(t)), u, atol=1e-6)


@all_kinds
@settings(max_examples=60)
@given(st.floats(0, 1 - 2.0**-20, width=32, allow_subnormal=False), st.floats(0.0, 1.0, width=32))
def test_leap_is_the_chance_of_an_event_on_the_way(schedule, t, fraction):
    t = np.float32(t)
    t_next = np.float32(t + np.float32(fraction) * (np.float32(1) - t))
    expected = float(1 - survival(schedule, t_next) / survival(schedule, t))
    got = float(schedule.leap(jnp.asarray(t), jnp.asarray(t_next)))
    assert 0 <= got <= 1
    assert got == pytest.approx(expected, abs=2e-6)


@all_kinds
def test_leap_to_the_end_is_certain(schedule):
    t = jnp.asarray([0.0, 0.3, 0.999, LAST])
    np.testing.assert_array_equal(schedule.leap(t, jnp.ones_like(t)), 1.0)
    np.testing.assert_array_equal(schedule.leap(t, t), 0.0)


@all_kinds
def test_leaps_compose(schedule):
    t = jnp.linspace(0.0, 1.0, 9)
    staying = np.prod(1 - np.asarray(schedule.leap(t[:-2], t[1:-1]), np.float64))
    np.testing.assert_allclose(staying, schedule.survival(t[-2]), rtol=1e-5)


def test_linear_is_the_default_of_the_paper():
    t = jnp.linspace(0, 1, 5)
    np.testing.assert_array_equal(Linear().at(t), t)


def test_immediate_leaves_nothing_to_happen():
    t = jnp.linspace(0, 1, 5)
    schedule = Immediate()
    np.testing.assert_array_equal(schedule.at(t), 1.0)
    for nothing in (schedule.survival(t), schedule.hazard(t), schedule.leap(t, t)):
        np.testing.assert_array_equal(nothing, 0.0)
    np.testing.assert_array_equal(schedule.inverse(t), 0.0)
    assert not schedule.inserts


def test_every_kind_is_a_registered_frozen_schedule():
    assert {type(schedule) for schedule in KINDS} == set(SCHEDULES.values())
    for schedule in [*KINDS, Immediate()]:
        assert isinstance(schedule, Schedule)
        assert hash(schedule) == hash(dataclasses.replace(schedule))
    assert all(schedule.inserts for schedule in KINDS)


@pytest.mark.parametrize(
    "fields", [{"sigma_min": 2.0, "sigma_max": 1.0}, {"sigma_min": 1.0, "sigma_max": 1.0}]
)
def test_impossible_parameters_are_refused(fields):
    with pytest.raises(ValueError, match="schedule needs sigma_min < sigma_max"):
        Geometric(**fields)


@all_kinds
def test_times_near_the_end_come_back_from_what_survives(schedule):
    """Where inverse(1 - s) could only tell times apart that are 1e-4 from each other."""
    late = np.float32(10.0) ** np.linspace(-6, -0.3, 50, dtype=np.float32)
    t = np.float32(1) - late
    back = schedule.inverse_survival(jnp.asarray(survival(schedule, t), jnp.float32))
    # Rounding of t itself, and of s.
    np.testing.assert_allclose(1 - np.float64(back), 1 - np.float64(t), rtol=1e-5, atol=3e-7)


def test_nothing_survives_an_immediate_schedule():
    assert Immediate().inverse_survival(jnp.asarray([0.3, 1.0])).tolist() == [0.0, 0.0]
