"""Paces on exact denoisers: event by event, adaptive steps, and grids that leave nothing behind."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from effort import either
from sampler_programs import program

from flexmdm_jax.conformance import P1, VOCABULARY, flexmdm_oracle, mdm_oracle
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import (
    Adaptive,
    EntropyBound,
    ExactRate,
    Poisson,
    SamplerConfig,
    Threshold,
    generate,
    start_canvas,
)
from flexmdm_jax.schedules import Linear, Polynomial, Power, Sine
from flexmdm_jax.types import Denoiser, Encoding

ROWS = either(2_000, 20_000)
LENGTH = 7
PROCESS, MDM = Process(VOCABULARY), Process.mdm(VOCABULARY)
EARLY_LATE = Process(VOCABULARY, Sine(), Polynomial(3.0))
ORACLE = flexmdm_oracle(P1)


@functools.cache
def draw(sampler, denoiser=ORACLE, process=PROCESS, length=LENGTH, prefix=(), suffix=()):
    canvas = start_canvas(ROWS, length, process, prefix=prefix, suffix=suffix)
    run = program(sampler.kinds, denoiser, process)
    keys = jax.random.split(jax.random.key(0), ROWS)
    return run(keys, canvas, sampler.settings(ROWS, length))


def distance(samples, law=P1):
    found = law.total_variation(samples.tokens, samples.lengths)
    print(f"{found:.4f} after {samples.calls.mean():.1f} calls, floor {law.floor(ROWS):.4f}")
    return found


def length_distance(samples, law=P1):
    lengths = np.bincount(samples.lengths, minlength=LENGTH + 1) / ROWS
    return np.abs(lengths - np.pad(law.lengths(), (0, LENGTH + 1 - len(law.lengths())))).sum() / 2


# A distance of so many exact draws is less than this but once in a million.
LIMIT = P1.floor(ROWS) + 5 * 0.5 / np.sqrt(ROWS)


# A program takes longer to compile than to run: quick tests have those that differ most.
EXACT = [(PROCESS, ExactRate()), (EARLY_LATE, Adaptive("margin"))]
EXACT += either([], [(EARLY_LATE, ExactRate()), (PROCESS, Adaptive("margin"))])


@pytest.mark.parametrize(("process", "rule"), EXACT)
def test_event_by_event_samples_follow_the_law_exactly(process, rule):
    samples = draw(SamplerConfig(exact=True, rule=rule), process=process)
    assert distance(samples) <= LIMIT
    assert not samples.broken.any()
    assert not samples.cut_short.any()
    np.testing.assert_array_equal(samples.inserted, samples.lengths)
    # Two calls an event, one a rejected proposal, and the look at the empty row.
    assert (samples.calls >= 1 + 4 * samples.lengths).all()


def test_event_by_event_takes_two_calls_an_event_and_one_a_rejection():
    """A law of one word is known at all times: its bound never falls, so nothing is rejected."""

    def encode(tokens, segment_ids, alpha):
        left = 3.0 - jnp.sum(segment_ids > 0, axis=1, keepdims=True) + 1.0
        first = jnp.arange(tokens.shape[1])[None, :] == 0
        return Encoding(jnp.zeros((*tokens.shape, VOCABULARY.size)), jnp.where(first, left, 0.0))

    word = Denoiser(encode=encode, decode=lambda hidden: hidden)
    samples = draw(SamplerConfig(exact=True), word)
    assert (samples.lengths == 3).all()
    assert (samples.calls == 13).all()


@pytest.mark.parametrize(("prefix", "suffix"), [((0,), ()), ((0,), (0,))])
def test_event_by_event_conditionals_are_exact(prefix, suffix):
    law = P1.given(prefix, suffix)
    oracle = flexmdm_oracle(law, len(prefix), len(suffix))
    samples = draw(SamplerConfig(exact=True), oracle, prefix=prefix, suffix=suffix)
    assert distance(samples, law) <= LIMIT


def test_event_by_event_mdm_unmasks_one_by_one():
    length = P1.max_length + 1
    samples = draw(SamplerConfig(exact=True), mdm_oracle(P1, length), MDM, length)
    assert distance(samples) <= LIMIT
    # A look at the first time, then a call a mask.
    assert (samples.calls == 1 + length).all()


def test_a_broken_bound_is_counted_and_does_no_harm():
    """This network's expectation rises with time, which no law's does."""

    def encode(tokens, segment_ids, alpha):
        out = ORACLE.encode(tokens, segment_ids, alpha)
        return out.replace(gaps=out.gaps * (0.2 + 3.0 * alpha))

    samples = draw(SamplerConfig(exact=True), dataclasses.replace(ORACLE, encode=encode))
    assert samples.broken.any()
    assert (samples.broken <= samples.inserted).all()
    assert not (np.asarray(samples.tokens) == VOCABULARY.mask).any()


# Rules and processes under which fewer events a step lead to the law.
CONVERGING = {
    "exact rate": (SamplerConfig(), PROCESS),
    "sine, polynomial": (SamplerConfig(), EARLY_LATE),
    "poisson": (SamplerConfig(insertions=Poisson()), PROCESS),
    "adaptive": (SamplerConfig(rule=Adaptive()), PROCESS),
    "threshold, one a call": (SamplerConfig(rule=Threshold(1.0)), PROCESS),
    "entropy bound, one a call": (SamplerConfig(rule=EntropyBound(0.0)), PROCESS),
}


SOME = either(("exact rate", "sine, polynomial", "threshold, one a call"), tuple(CONVERGING))


@pytest.mark.parametrize("name", SOME)
def test_fewer_events_a_step_lead_to_the_law(name):
    sampler, process = CONVERGING[name]
    few, many = (
        draw(dataclasses.replace(sampler, events_per_step=kappa), process=process)
        for kappa in (0.2, 2.0)
    )
    assert distance(few) <= LIMIT + 0.02
    assert distance(many) > distance(few)
    assert few.calls.mean() > many.calls.mean()
    assert not few.cut_short.any()


def test_tokens_unmasked_together_do_not_follow_the_law():
    """What the documentation warns of: sure tokens are drawn independently of each other."""
    length = P1.max_length + 1
    samples = draw(SamplerConfig(rule=Threshold(0.2)), mdm_oracle(P1, length), MDM, length)
    assert distance(samples) > LIMIT + 0.05


def test_longer_rows_take_more_calls():
    samples = draw(SamplerConfig(events_per_step=0.5))
    lengths, calls = np.asarray(samples.lengths), np.asarray(samples.calls)
    means = [calls[lengths == n].mean() for n in range(5)]
    assert means == sorted(means)
    assert means[4] > 1.5 * means[0]


def test_steps_closer_to_the_end_and_nothing_left_behind_beat_the_papers():
    papers = {n: draw(SamplerConfig.paper(n)) for n in (8, 16)}
    ours = {n: draw(SamplerConfig(steps=n)) for n in (8, 16)}
    for n in (8, 16):
        assert distance(ours[n]) < 0.6 * distance(papers[n])
        assert length_distance(ours[n]) < 0.7 * length_distance(papers[n])
    assert distance(ours[8]) < distance(papers[8]) / 2


@pytest.mark.parametrize("grid", [Linear(), Power(2.0), Sine()])
def test_what_is_missing_in_the_end_is_inserted_on_every_grid(grid):
    lost = draw(SamplerConfig(steps=16, grid=grid, insert_rest=False))
    whole = draw(SamplerConfig(steps=16, grid=grid))
    mean = P1.lengths() @ np.arange(P1.max_length + 1)
    error = 4 * np.std(np.asarray(whole.lengths)) / np.sqrt(ROWS)
    assert whole.lengths.mean() == pytest.approx(mean, abs=error + 0.02)
    assert lost.lengths.mean() < whole.lengths.mean()


def test_a_row_that_runs_out_of_calls_is_marked_and_finished():
    samples = draw(SamplerConfig(events_per_step=0.6, max_calls=8))
    assert 0 < samples.cut_short.mean() < 1
    assert (samples.calls[samples.cut_short] <= 8).all()
    assert (samples.calls <= 8).all()
    assert not (np.asarray(samples.tokens) == VOCABULARY.mask).any()
    # What was missing was inserted in the call before the last.
    mean = P1.lengths() @ np.arange(P1.max_length + 1)
    assert samples.lengths.mean() == pytest.approx(mean, abs=0.2)


@pytest.mark.parametrize("mdm", [False, True])
def test_event_by_event_rows_that_run_out_of_calls_are_finished_too(mdm):
    length = P1.max_length + 1 if mdm else LENGTH
    denoiser, process = (mdm_oracle(P1, length), MDM) if mdm else (ORACLE, PROCESS)
    samples = draw(SamplerConfig(exact=True, max_calls=4), denoiser, process, length)
    assert (samples.calls <= 4).all()
    assert samples.cut_short.mean() > 0
    assert not (np.asarray(samples.tokens) == VOCABULARY.mask).any()


def test_a_grid_with_calls_enough_is_cut_short_nowhere():
    whole, bounded = (draw(SamplerConfig.paper(8, max_calls=x)) for x in (0, 8))
    assert not bounded.cut_short.any()
    np.testing.assert_array_equal(whole.tokens, bounded.tokens)


def test_early_finishes_change_the_law_by_less_than_epsilon():
    whole, little, early = (
        draw(SamplerConfig(exact=True, finish_below=x)) for x in (0.0, 0.05, 0.5)
    )
    assert early.calls.mean() < little.calls.mean() < whole.calls.mean()
    assert distance(little) <= LIMIT + 0.05
    assert not (np.asarray(early.tokens) == VOCABULARY.mask).any()
    # It does stop short: rows that could still grow are left as they are.
    assert early.lengths.mean() < little.lengths.mean() <= whole.lengths.mean()


def test_a_network_that_says_nothing_sensible_ends_all_the_same():
    def encode(tokens, segment_ids, alpha):
        nan = jnp.full((*tokens.shape, VOCABULARY.size), jnp.nan)
        return Encoding(hidden=nan, gaps=nan[..., 0])

    broken = Denoiser(encode=encode, decode=lambda hidden: hidden)
    canvas = start_canvas(4, LENGTH, PROCESS)
    keys = jax.random.split(jax.random.key(0), 4)
    for sampler in (SamplerConfig(), SamplerConfig(exact=True), SamplerConfig(steps=3)):
        samples = jax.jit(
            lambda keys, sampler=sampler: generate(keys, broken, canvas, sampler, PROCESS)
        )(keys)
        assert (samples.calls < 2000).all()


CONTRADICTIONS = {
    "exact sampling takes no steps": {"exact": True, "steps": 4},
    "block_length = 2 needs a number of steps": {"block_length": 2},
    "min_length = 5 is more than max_length = 4": {"min_length": 5, "max_length": 4},
    "min_length = 5: neither Poisson": {"min_length": 5, "insertions": Poisson()},
}


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_settings_that_contradict_each_other_are_refused(message):
    with pytest.raises(ValueError, match=message):
        SamplerConfig(**CONTRADICTIONS[message])
