"""With an exact denoiser, samplers draw from the data's law as the number of steps grows.

The paper's theorems promise this for the vanilla sampler and for any order of unmasking. Total
variations are compared with what as many exact draws would show, the Monte-Carlo floor. Quick
tests draw 4,000 rows on a grid that needs few steps: a denoiser whose gaps are a tenth off is told
apart all the same.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from effort import either
from sampler_programs import program
from scipy import integrate

from flexmdm_jax.conformance import P1, VOCABULARY, flexmdm_oracle, mdm_oracle
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import (
    CONFIDENCES,
    Adaptive,
    Binomial,
    ExactGaps,
    ExactRate,
    Poisson,
    SamplerConfig,
    TauLeaping,
    empty_canvas,
    masked_canvas,
    protect,
)
from flexmdm_jax.schedules import Cosine, Linear, Polynomial, Sine

NUM_ROWS = either(4_000, 20_000)
LENGTH = 7
GRID = either(Sine(), Linear())
ALL_STEPS = either((8, 64), (16, 64, 256))
STEPS = either(64, 128)
ADAPTIVE = {name: Adaptive(confidence=name) for name in CONFIDENCES}
WINDOWED = Adaptive(confidence="top_prob", window_factor=1.5, window_size=2)
RULES = {
    "exact_rate": ExactRate(),
    "tau_leaping": TauLeaping(),
    **ADAPTIVE,
    "top_prob_window": WINDOWED,
}


FLEXMDM, MDM = Process(VOCABULARY), Process.mdm(VOCABULARY)
ORACLE, MDM_ORACLE = flexmdm_oracle(P1), mdm_oracle(P1, P1.max_length + 1)


def draw(denoiser, canvas, process=FLEXMDM, trace=0, **sampler):
    # The paper's sampler but for what a test says.
    kinds = {"grid": GRID, "insertions": Poisson(), "insert_rest": False}
    sampler = SamplerConfig(**kinds | sampler)
    settings = sampler.settings(*canvas.tokens.shape)
    keys = jax.random.split(jax.random.key(0), NUM_ROWS)
    return program(sampler.kinds, denoiser, process, trace)(keys, canvas, settings)


def fixed_rows(tokens):
    rows = jnp.broadcast_to(jnp.asarray(tokens, jnp.int32)[None, :], (NUM_ROWS, len(tokens)))
    return rows, jnp.full(NUM_ROWS, len(tokens))


def flexmdm_canvas(tokens=()):
    return empty_canvas(*fixed_rows(tokens), LENGTH, VOCABULARY)


def close(canvas, start, stop):
    return protect(canvas, jnp.full(NUM_ROWS, start), jnp.full(NUM_ROWS, stop))


def mdm_canvas(tokens=()):
    return masked_canvas(*fixed_rows(tokens), P1.max_length + 1, VOCABULARY)


def check_converges(law, sample_at, all_steps=(STEPS,)):
    """Checks that the total variation falls with the steps, to nearly the floor at the last."""
    samples = {steps: sample_at(steps) for steps in all_steps}
    distances = [law.total_variation(x.tokens, x.lengths) for x in samples.values()]
    print(dict(zip(all_steps, distances, strict=True)), "floor", law.floor(NUM_ROWS))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] <= law.floor(NUM_ROWS) + 0.025
    last = samples[all_steps[-1]]
    lengths = np.bincount(last.lengths, minlength=LENGTH + 1) / NUM_ROWS
    expected = np.pad(law.lengths(), (0, LENGTH + 1 - len(law.lengths())))
    assert np.abs(lengths - expected).sum() / 2 <= either(0.04, 0.03)


def test_law_statistics_tell_right_from_wrong():
    rng = np.random.default_rng(0)
    choice = rng.choice(len(P1.probs), size=NUM_ROWS, p=P1.probs)
    batch = P1.rows(choice, LENGTH)
    tokens, lengths = batch.tokens, batch.segment_ids.sum(axis=1) - 1
    assert P1.total_variation(tokens, lengths) < 2 * P1.floor(NUM_ROWS)
    assert P1.total_variation(tokens[:, ::-1], lengths) > 0.5
    assert P1.total_variation(tokens[:1], lengths[:1]) == pytest.approx(1 - P1.probs[choice[0]])


# A program takes longer to compile than to run: quick tests have those that differ most.
SOME_RULES = either(("exact_rate", "tau_leaping", "top_prob_window"), tuple(RULES))
MDM_RULES = either(
    ("exact_rate", "top_prob"), ("exact_rate", "tau_leaping", "top_prob", "top_prob_window")
)


@pytest.mark.parametrize("rule", SOME_RULES)
def test_unconditional_samples_follow_the_data(rule):
    oracle = ORACLE
    check_converges(
        P1, lambda n: draw(oracle, flexmdm_canvas(), steps=n, rule=RULES[rule]), ALL_STEPS
    )


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_gaps_that_are_a_tenth_off_are_noticed(factor):
    oracle = ORACLE

    def encode(*args):
        out = oracle.encode(*args)
        return out.replace(gaps=out.gaps * factor)

    wrong = dataclasses.replace(oracle, encode=encode)
    with pytest.raises(AssertionError, match="floor"):
        check_converges(P1, lambda n: draw(wrong, flexmdm_canvas(), steps=n, grid=Sine()))


def test_steps_on_another_grid_follow_the_data():
    oracle, grid = ORACLE, either(Linear(), Sine())
    all_steps = either((16, 128), ALL_STEPS)
    check_converges(P1, lambda n: draw(oracle, flexmdm_canvas(), steps=n, grid=grid), all_steps)


def test_binomial_insertions_follow_the_data():
    oracle = ORACLE
    sampler = {"rule": RULES["exact_rate"], "insertions": Binomial()}
    check_converges(P1, lambda n: draw(oracle, flexmdm_canvas(), steps=n, **sampler), ALL_STEPS)


def test_exact_gaps_follow_the_data():
    oracle = ORACLE
    sampler = {"rule": RULES["exact_rate"], "insertions": ExactGaps()}
    all_steps = (either(32, 128),)
    check_converges(P1, lambda n: draw(oracle, flexmdm_canvas(), steps=n, **sampler), all_steps)


def test_continuations_of_a_prompt_follow_the_conditional_law():
    law = P1.given(prefix=(0,))
    canvas = close(flexmdm_canvas((0,)), 0, 1)
    check_converges(
        law,
        lambda n: draw(
            flexmdm_oracle(law, num_prefix=1), canvas, steps=n, rule=RULES["exact_rate"]
        ),
    )


def test_infilling_follows_the_conditional_law():
    law = P1.given(prefix=(0,), suffix=(0,))
    assert len(law.sequences) == 3
    canvas = close(close(flexmdm_canvas((0, 0)), 0, 1), 2, 3)
    oracle = flexmdm_oracle(law, num_prefix=1, num_suffix=1)
    check_converges(law, lambda n: draw(oracle, canvas, steps=n, rule=RULES["margin"]))


@pytest.mark.parametrize("rule", MDM_RULES)
def test_mdm_samples_follow_the_data(rule):
    check_converges(
        P1,
        lambda n: draw(
            MDM_ORACLE,
            mdm_canvas(),
            MDM,
            steps=n,
            rule=RULES[rule],
        ),
    )


def test_semi_autoregressive_mdm_follows_the_data():
    prompt = (0,)
    law = P1.given(prefix=prompt)
    check_converges(
        law,
        lambda n: draw(
            MDM_ORACLE,
            mdm_canvas(prompt),
            MDM,
            steps=n,
            rule=RULES["margin"],
            block_length=2,
        ),
        (128,),
    )


@pytest.fixture(scope="module")
def sine_samples():
    """Samples under schedules that differ from each other and from linear, with their trace."""
    process = Process(VOCABULARY, Sine(), Polynomial(2.0))
    return draw(ORACLE, flexmdm_canvas(), process, steps=128, grid=Linear(), trace=128)


def test_other_schedules_lead_to_the_same_law(sine_samples):
    check_converges(P1, lambda _: sine_samples)


@pytest.mark.parametrize("grid", either([Cosine()], [Sine(), Cosine()]))
def test_every_grid_of_times_leads_to_the_same_law(grid):
    oracle, process = ORACLE, Process(VOCABULARY, Sine(), Sine())
    check_converges(
        P1, lambda n: draw(oracle, flexmdm_canvas(), process, steps=n, grid=grid), (128,)
    )


def test_partial_sequences_on_the_way_have_the_interpolants_marginals(sine_samples):
    trace = np.asarray(sine_samples.trace)
    error = either(0.07, 0.04)
    mean_length = P1.lengths() @ np.arange(P1.max_length + 1)
    for t in (0.25, 0.5, 0.75):
        tokens = trace[round(t * len(trace)) - 1]
        present = (tokens != VOCABULARY.end).sum(axis=1)
        masks = (tokens == VOCABULARY.mask).sum(axis=1)
        # Events of one step are drawn independently, which is off by at most the order of a step.
        assert present.mean() == pytest.approx(mean_length * np.sin(np.pi * t / 2), abs=error)
        rate = lambda u: np.pi / 2 * np.cos(np.pi * u / 2) / (1 - u**2)  # noqa: E731
        chance = (1 - t**2) * integrate.quad(rate, 0, t)[0]
        assert masks.mean() == pytest.approx(mean_length * chance, abs=error)
        thinned = _thinned_lengths(np.sin(np.pi * t / 2))
        counts = np.bincount(present, minlength=LENGTH + 1) / NUM_ROWS
        assert np.abs(counts - thinned).sum() / 2 < either(0.04, 0.03)


def _thinned_lengths(chance):
    """Returns the law of the length when each token is present with the given chance."""
    out = np.zeros(LENGTH + 1)
    for length, p in enumerate(P1.lengths()):
        law = np.ones(1)
        for _ in range(length):
            law = np.convolve(law, [1 - chance, chance])
        out[: length + 1] += p * law
    return out
