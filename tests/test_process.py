"""The states of a token by quadrature in float64; noise wants one key for each row."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from flexmdm_jax import interpolant, losses, sampling
from flexmdm_jax.data.batches.rows import batch_of
from flexmdm_jax.process import Process
from flexmdm_jax.schedules import Cosine, Geometric, Immediate, Linear, Polynomial, Sine
from flexmdm_jax.types import Denoiser, Vocabulary

V = Vocabulary(size=5, mask=1, end=3)
EXCESS = lambda t: 0.01 * np.expm1((1 - t) * np.log(1000))  # noqa: E731
SPAN = -np.expm1(0.01 - 10)
# Schedule -> (a, a', 1 - a) in float64, in forms that cancel nowhere.
SCHEDULES = {
    Linear(): (lambda t: t, lambda t: 1.0, lambda t: 1 - t),
    Polynomial(1.5): (
        lambda t: t**1.5,
        lambda t: 1.5 * t**0.5,
        lambda t: -np.expm1(1.5 * np.log(t)),
    ),
    Sine(): (
        lambda t: np.sin(np.pi * t / 2),
        lambda t: np.pi / 2 * np.cos(np.pi * t / 2),
        lambda t: 2 * np.sin((1 - t) * np.pi / 4) ** 2,
    ),
    Cosine(): (
        lambda t: 2 * np.sin(np.pi * t / 4) ** 2,
        lambda t: np.pi / 2 * np.sin(np.pi * t / 2),
        lambda t: np.cos(np.pi * t / 2),
    ),
    Geometric(): (
        lambda t: np.exp(-9.99) * np.expm1(-10 * np.expm1(-t * np.log(1000))) / SPAN,
        lambda t: np.exp(-EXCESS(t)) * (0.01 + EXCESS(t)) * np.log(1000) / SPAN,
        lambda t: -np.expm1(-EXCESS(t)) / SPAN,
    ),
}
# Both sides of t = 1/2, where another formula takes over, and close to both ends.
TIMES = np.array([1e-4, 0.003, 0.1, 0.499, 0.501, 0.9, 0.999], np.float32).astype(float)


def integral(fn, t):
    """Returns the integral from 0 to t in float64; nodes lie closer together towards 0."""
    nodes = lambda x: fn(t * x * x) * 2 * t * x  # noqa: E731
    return integrate.quad(nodes, 0, 1, epsabs=0, epsrel=1e-7, limit=400)[0]


@pytest.mark.parametrize("insertion", SCHEDULES)
@pytest.mark.parametrize("unmasking", SCHEDULES)
def test_chances_of_a_token_equal_their_integrals(insertion, unmasking):
    """Also relative to what they are near t = 0, where P(clean) is of the order of t² or less."""
    process = Process(V, insertion, unmasking)
    _, entering, _ = SCHEDULES[insertion]
    level, _, survival = SCHEDULES[unmasking]
    rate = lambda u: entering(u) / survival(u)  # noqa: E731
    exposure = np.array([integral(rate, t) for t in TIMES])
    clean = np.array([integral(lambda u: rate(u) * (level(t) - level(u)), t) for t in TIMES])  # noqa: B023
    now = jnp.asarray(TIMES)
    np.testing.assert_allclose(process.exposure(now), exposure, rtol=3e-5)
    np.testing.assert_allclose(process.masked(now), survival(TIMES) * exposure, rtol=3e-5)
    np.testing.assert_allclose(process.clean(now), clean, rtol=3e-5)
    total = process.absent(now) + process.masked(now) + process.clean(now)
    np.testing.assert_allclose(total, 1, rtol=1e-6)


@pytest.mark.parametrize("insertion", [*SCHEDULES, Immediate()])
def test_all_is_clean_at_the_end_and_nothing_before_the_start(insertion):
    process, ends = Process(V, insertion, Sine()), jnp.asarray([0.0, 1.0])
    np.testing.assert_allclose(process.clean(ends), [0, 1], atol=1e-6)
    np.testing.assert_allclose(process.masked(ends), [not process.inserts, 0], atol=1e-6)


def test_mdm_has_every_token_from_the_start():
    process, t = Process.mdm(V, Polynomial(2.0)), jnp.asarray([0.3, 0.8])
    assert not process.inserts
    np.testing.assert_array_equal(process.exposure(t), 1)
    np.testing.assert_array_equal(process.absent(t), 0)
    np.testing.assert_allclose(process.masked(t), 1 - t**2)
    np.testing.assert_allclose(process.clean(t), t**2)


def test_unmasking_is_not_immediate():
    for make in (lambda: Process(V, Linear(), Immediate()), lambda: Process.mdm(V, Immediate())):
        with pytest.raises(ValueError, match="nothing is ever masked"):
            make()


def test_times_are_drawn_from_parts_that_are_there():
    keys = jax.random.split(jax.random.key(0), 3)
    t = interpolant.stratified_times(keys).t
    assert (jnp.floor(3 * t[:, 0]) == jnp.arange(3)).all()
    with pytest.raises(ValueError, match="together, or neither"):
        interpolant.stratified_times(keys, num_strata=3)
    with pytest.raises(ValueError, match=r"warp = 0.5; it must be at least 1"):
        interpolant.stratified_times(keys, warp=0.5)


def test_chances_keep_the_shape_of_times():
    process = Process(V, Sine(), Cosine())
    t = jnp.linspace(0.1, 0.9, 6)
    for chance in (process.exposure, process.masked, process.clean):
        np.testing.assert_array_equal(chance(t.reshape(2, 3)).ravel(), chance(t))
        assert chance(t[0]).shape == ()


PROCESS = Process(V)
BATCH = batch_of([[0], [4, 2]], length=4, process=PROCESS)
NOBODY = Denoiser(encode=lambda *_: None, decode=lambda _: None)
NOISY = {
    "stratified_times": lambda fn, keys: fn(keys, jnp.zeros((2, 1), int), 2),
    "corrupt": lambda fn, keys: fn(keys, BATCH, jnp.full((2, 1), 0.5), PROCESS),
    "nll_bound": lambda fn, keys: fn(keys, NOBODY, BATCH, PROCESS, num_times=1),
    "generate": lambda fn, keys: fn(
        keys, NOBODY, sampling.start_canvas(2, 4, PROCESS), sampling.SamplerConfig(), PROCESS
    ),
}


@pytest.mark.parametrize("name", NOISY)
def test_a_key_is_wanted_for_every_row(name):
    owner = next(m for m in (interpolant, losses, sampling) if hasattr(m, name))
    # As users call it: without the type checks that tests run with.
    fn = inspect.unwrap(getattr(owner, name))
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"a single key for 2 rows; .*split\(key, 2\)"):
        NOISY[name](fn, key)
    with pytest.raises(ValueError, match=r"keys of shape \(3,\) for 2 rows"):
        NOISY[name](fn, jax.random.split(key, 3))
    with pytest.raises(ValueError, match=r"keys are typed ones: jax.random.key"):
        NOISY[name](fn, jax.random.PRNGKey(0))
