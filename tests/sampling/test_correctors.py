"""Going back in time: the kernel against the interpolant, and samplers that go forward again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from effort import either
from scipy import integrate

from flexmdm_jax.conformance import P1, VOCABULARY, flexmdm_oracle, mdm_oracle
from flexmdm_jax.interpolant import corrupt
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import (
    Adaptive,
    Canvas,
    ExactRate,
    Remask,
    SamplerConfig,
    generate,
    start_canvas,
)
from flexmdm_jax.schedules import Polynomial, Sine

ROWS = either(3_000, 20_000)
LENGTH = 7
PROCESS = Process(VOCABULARY, Sine(), Polynomial(2.0))
MDM = Process.mdm(VOCABULARY)


def keys_of(seed):
    return jax.random.split(jax.random.key(seed), ROWS)


def rows_at(t, seed, process=PROCESS):
    """Returns rows of the interpolant at time t, as canvases."""
    rng = np.random.default_rng(seed)
    batch = P1.rows(rng.choice(len(P1.probs), ROWS, p=P1.probs), LENGTH)
    if not process.inserts:
        batch = batch.replace(
            segment_ids=jnp.ones_like(batch.segment_ids), fixed=jnp.zeros_like(batch.fixed)
        )
    x = jax.jit(lambda keys, batch: corrupt(keys, batch, jnp.full((ROWS, 1), t), process))(
        keys_of(seed), batch
    )
    end = (x.tokens == VOCABULARY.end) & (x.segment_ids > 0)
    fixed = end & process.inserts
    closed = jnp.full(x.tokens.shape, not process.inserts)
    return Canvas(x.tokens, x.segment_ids, closed=closed, fixed=fixed)


def states(canvas):
    tokens = np.where(canvas.real, canvas.tokens, -1)
    return [row[row >= 0].tobytes() for row in tokens]


def distance(first, second):
    """Returns the total variation between the empirical laws of two sets of rows."""
    seen = {}
    for sign, canvas in ((1, first), (-1, second)):
        for state in states(canvas):
            seen[state] = seen.get(state, 0) + sign
    return sum(map(abs, seen.values())) / (2 * ROWS)


@pytest.mark.parametrize(("t", "s"), [(0.7, 0.35), (0.95, 0.5), (0.5, 0.02)])
@pytest.mark.parametrize("process", [PROCESS, MDM], ids=["flexmdm", "mdm"])
def test_going_back_from_t_to_s_gives_the_interpolants_law_of_s(t, s, process):
    """Two sets of exact rows of s are as far apart as these are."""
    start = rows_at(t, 0, process)
    times = (jnp.full(ROWS, t), jnp.full(ROWS, s))
    go_back = lambda keys, canvas: Remask().go_back(  # noqa: E731
        keys, canvas, *times, process, keeps_split=True
    )
    back = jax.jit(go_back)(keys_of(1), start)
    floor = distance(rows_at(s, 2, process), rows_at(s, 3, process))
    found = distance(back, rows_at(s, 4, process))
    print(f"{found:.4f}, floor {floor:.4f}")
    assert distance(start, rows_at(s, 4, process)) > 3 * floor
    assert found < floor + 2.5 / np.sqrt(ROWS)


def test_the_rough_kernel_keeps_the_law_of_what_is_there():
    """Whatever was masked at t, a token of t is there at s with chance α(s) / α(t)."""
    t, s = 0.8, 0.4
    start = rows_at(t, 0)
    # Another split than the interpolant's: everything is clean.
    start = start.replace(tokens=jnp.where(start.masks(VOCABULARY), 0, start.tokens))
    times = (jnp.full(ROWS, t), jnp.full(ROWS, s))
    back = Remask().go_back(keys_of(1), start, *times, PROCESS, keeps_split=False)
    before, after = (jnp.sum(x.real & ~x.fixed) for x in (start, back))
    alpha = lambda t: np.sin(np.pi * t / 2)  # noqa: E731
    assert after / before == pytest.approx(alpha(s) / alpha(t), abs=3 / np.sqrt(int(before)))
    rate = lambda u: np.pi / 2 * np.cos(np.pi * u / 2) / (1 - u**2)  # noqa: E731
    masked = (1 - s**2) * integrate.quad(rate, 0, s)[0] / alpha(s)
    found = jnp.sum(back.masks(VOCABULARY)) / after
    assert found == pytest.approx(masked, abs=3 / np.sqrt(int(after)))


def test_fixed_tokens_and_closed_gaps_stay():
    canvas = start_canvas(ROWS, LENGTH, PROCESS, prefix=(0, 2), suffix=(4,))
    canvas = canvas.replace(
        tokens=jnp.broadcast_to(jnp.asarray([[0, 2, 2, 1, 4, 3, 3]]), (ROWS, LENGTH)),
        segment_ids=jnp.broadcast_to(jnp.asarray([[1, 1, 1, 1, 1, 1, 0]]), (ROWS, LENGTH)),
        closed=jnp.broadcast_to(jnp.asarray([[1, 1, 0, 0, 0, 1, 0]]) > 0, (ROWS, LENGTH)),
        fixed=jnp.broadcast_to(jnp.asarray([[1, 1, 0, 0, 1, 1, 0]]) > 0, (ROWS, LENGTH)),
    )
    back = Remask().go_back(
        keys_of(1), canvas, jnp.full(ROWS, 0.9), jnp.full(ROWS, 0.3), PROCESS, keeps_split=True
    )
    tokens, sizes = np.asarray(back.tokens), np.asarray(back.real.sum(axis=1))
    assert set(sizes) == {4, 5, 6}
    assert (tokens[:, :2] == [0, 2]).all()
    last = np.arange(ROWS)
    assert (tokens[last, sizes - 2] == 4).all()
    assert (tokens[last, sizes - 1] == 3).all()
    assert np.asarray(back.closed)[last, sizes - 1].all()
    assert not np.asarray(back.closed)[last, sizes - 2].any()
    assert np.asarray(back.closed)[:, :2].all()
    assert (np.asarray(back.fixed).sum(axis=1) == 4).all()


# Samplers that follow the law without a corrector have to with one.
SAMPLERS = {
    "exact": SamplerConfig(exact=True, corrector=Remask(0.3, 0.4)),
    "exact, at the end": SamplerConfig(exact=True, corrector=Remask(0.5, 1.0)),
    "exact, default": SamplerConfig(exact=True, corrector=Remask()),
    "adaptive steps, to the end": SamplerConfig(events_per_step=0.3, corrector=Remask(0.3, 0.5)),
    "adaptive steps": SamplerConfig(events_per_step=0.25, corrector=Remask(0.3, 0.4)),
    "grid": SamplerConfig(steps=64, corrector=Remask(0.1, 0.3)),
    "exact, by confidence": SamplerConfig(
        exact=True, rule=Adaptive("margin"), corrector=Remask(0.3, 0.4)
    ),
}


@pytest.mark.parametrize(
    "name", either(("exact, default", "adaptive steps, to the end"), tuple(SAMPLERS))
)
def test_samples_that_went_back_still_follow_the_law(name):
    sampler, oracle = SAMPLERS[name], flexmdm_oracle(P1)
    canvas = start_canvas(ROWS, LENGTH, PROCESS)
    samples = jax.jit(lambda keys: generate(keys, oracle, canvas, sampler, PROCESS))(keys_of(0))
    found = P1.total_variation(samples.tokens, samples.lengths)
    print(f"{found:.4f} after {samples.calls.mean():.1f} calls, floor {P1.floor(ROWS):.4f}")
    assert found <= P1.floor(ROWS) + 2.5 / np.sqrt(ROWS) + 0.015 * (not sampler.exact)
    assert not samples.cut_short.any()
    # Some rows did go back: what was inserted is more than what is there.
    assert samples.inserted.sum() > samples.lengths.sum()


def test_rows_that_run_out_of_calls_are_not_taken_back_any_more():
    sampler = SamplerConfig(exact=True, corrector=Remask(), max_calls=14)
    canvas, oracle = start_canvas(ROWS, LENGTH, PROCESS), flexmdm_oracle(P1)
    samples = jax.jit(lambda keys: generate(keys, oracle, canvas, sampler, PROCESS))(keys_of(0))
    assert (samples.calls <= 14).all()
    assert 0 < samples.cut_short.mean() < 1
    assert not (np.asarray(samples.tokens) == VOCABULARY.mask).any()


def test_mdm_goes_back_too():
    length = P1.max_length + 1
    sampler = SamplerConfig(exact=True, rule=ExactRate(), corrector=Remask(0.4, 0.5))
    canvas = start_canvas(ROWS, length, MDM)
    run = jax.jit(lambda keys: generate(keys, mdm_oracle(P1, length), canvas, sampler, MDM))
    samples = run(keys_of(0))
    assert P1.total_variation(samples.tokens, samples.lengths) <= P1.floor(ROWS) + 2.5 / np.sqrt(
        ROWS
    )
    assert (samples.calls > length + 1).any()
