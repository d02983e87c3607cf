"""Exact denoisers equal sums over every labelled state, and each other where both exist."""

import collections
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexmdm_jax.conformance import (
    LONG_GAPS,
    P1,
    VOCABULARY,
    Chain,
    Law,
    chain_oracle,
    flexmdm_oracle,
    hidden_words,
    large_vocabulary,
    large_vocabulary_oracle,
    long_word_oracle,
)
from flexmdm_jax.types import Vocabulary

ALPHAS = (0.0, 0.3, 0.9, 0.999)


def random_chain(seed=0, longest=4, moods=2):
    """A model whose states all overlap, with every token in each of them."""
    rng = np.random.default_rng(seed)
    place = np.repeat(np.arange(1, longest + 1), moods)
    stop = np.where(place == longest, 1.0, rng.uniform(0.1, 0.5, len(place)))
    step = rng.uniform(0.1, 1.0, (len(place), len(place)))
    step *= place[None, :] == place[:, None] + 1
    step *= ((1 - stop) / np.maximum(step.sum(axis=1), 1e-9))[:, None]
    start = np.where(place == 1, 0.4, 0.0)
    emission = rng.dirichlet(np.ones(3), len(place))
    return Chain(VOCABULARY, (0, 2, 4), place, 1 - start.sum(), start, step, stop, emission)


def subsets(items):
    return itertools.chain.from_iterable(
        itertools.combinations(items, n) for n in range(len(items) + 1)
    )


def labelled_states(law):
    """Returns {x_t: [(weight, missing, tokens, gaps), one for each way to come from an x₁]}."""
    found = collections.defaultdict(list)
    for x, p in zip(law.sequences, law.probs, strict=True):
        for kept in subsets(range(len(x))):
            gaps = np.diff([-1, *kept, len(x)]) - 1
            for masks in subsets(kept):
                state = tuple(law.vocabulary.mask if i in masks else x[i] for i in kept)
                found[state].append((p, len(x) - len(kept), tuple(x[i] for i in kept), gaps))
    return found


def posterior(law, ways, alpha):
    """Returns (chances of each token in each slot, expected gaps) in float64."""
    weight = np.array([p * (1 - alpha) ** missing for p, missing, _, _ in ways])
    gaps = weight @ np.array([way[3] for way in ways]) / weight.sum()
    tokens = np.array([way[2] for way in ways])[:, :, None] == np.array(law.tokens)
    return np.einsum("w,wiv->iv", weight, tokens) / weight.sum(), gaps


def rows_of(states, vocabulary, length):
    tokens = np.full((len(states), length), vocabulary.end, np.int32)
    for row, state in zip(tokens, states, strict=True):
        row[: len(state)] = state
    sizes = np.array([len(state) for state in states])
    segment_ids = (np.arange(length)[None, :] <= sizes[:, None]).astype(np.int32)
    return jnp.asarray(tokens), jnp.asarray(segment_ids)


def check_equals_enumeration(denoiser, law, alphas=ALPHAS, length=None):
    found = labelled_states(law)
    states = list(found)
    tokens, segment_ids = rows_of(states, law.vocabulary, length or law.max_length + 2)
    encode = jax.jit(denoiser.encode)
    for alpha in alphas:
        out = encode(tokens, segment_ids, jnp.full((len(states), 1), alpha, jnp.float32))
        gaps, logits = np.asarray(out.gaps), np.asarray(denoiser.decode(out.hidden))
        np.testing.assert_array_equal(np.isnan(gaps), np.asarray(segment_ids) == 0)
        chances = np.exp(logits[:, :, list(law.tokens)])
        for row, state in enumerate(states):
            exact, missing = posterior(law, found[state], float(np.float32(alpha)))
            n = len(state)
            np.testing.assert_allclose(gaps[row, : n + 1], missing, rtol=2e-5, atol=1e-9)
            masked = np.array(state) == law.vocabulary.mask
            np.testing.assert_allclose(
                chances[row, :n][masked], exact[masked], rtol=2e-5, atol=1e-7
            )


def test_a_chains_denoiser_equals_enumeration():
    chain = random_chain()
    check_equals_enumeration(chain_oracle(chain), chain.law())


@pytest.mark.parametrize("denoiser", [chain_oracle(Chain.of(P1)), flexmdm_oracle(P1)])
def test_denoisers_of_short_words_equal_enumeration(denoiser):
    check_equals_enumeration(denoiser, P1)


def test_the_large_vocabularys_denoiser_equals_enumeration():
    """With all its tail in one token, the law is one of a small vocabulary."""
    law, oracle = large_vocabulary(), large_vocabulary_oracle()
    small = dataclasses.replace(law, vocabulary=Vocabulary(size=6, mask=3, end=4), tail=None)

    def decode(hidden):
        logits = oracle.decode(hidden)
        tail = jax.nn.logsumexp(logits[..., law.tail :], axis=-1, keepdims=True)
        return jnp.concatenate([logits[..., : law.tail], tail], axis=-1)

    check_equals_enumeration(dataclasses.replace(oracle, decode=decode), small)


def test_the_long_words_denoiser_equals_enumeration():
    law = Law(((2,) * 4,), (1.0,), Vocabulary(size=3, mask=0, end=1))
    check_equals_enumeration(long_word_oracle(4), law)


@pytest.mark.parametrize("alpha", [0.5, 1 - 2.0**-20])
def test_many_missing_tokens_keep_their_ratios_near_the_end(alpha):
    """Ten tokens may be missing when each weighs 1e-6: float32 could not hold the product."""
    denoiser = chain_oracle(Chain.of(LONG_GAPS))
    mask = LONG_GAPS.vocabulary.mask
    states = [(2, 3, 4, 2, mask, 4), (4, 4, 4), (4, mask, 3, 3, 3, 3), (4, 4, mask)]
    tokens, segment_ids = rows_of(states, LONG_GAPS.vocabulary, LONG_GAPS.max_length + 1)
    out = denoiser.encode(tokens, segment_ids, jnp.full((len(states), 1), alpha, jnp.float32))
    for row, state in enumerate(states):
        _, gaps = posterior(LONG_GAPS, list(labelled_ways(LONG_GAPS, state)), alpha)
        assert gaps.sum() > 1
        np.testing.assert_allclose(out.gaps[row, : len(state) + 1], gaps, rtol=2e-5, atol=1e-9)


def labelled_ways(law, state):
    """Returns the ways to come to one state, of sequences too long to list all states."""
    for x, p in zip(law.sequences, law.probs, strict=True):
        for kept in itertools.combinations(range(len(x)), len(state)):
            chosen = tuple(x[i] for i in kept)
            if all(v in (law.vocabulary.mask, w) for v, w in zip(state, chosen, strict=True)):
                yield p, len(x) - len(kept), chosen, np.diff([-1, *kept, len(x)]) - 1


def test_states_that_cannot_be_get_a_uniform_posterior_and_no_gaps():
    denoiser = chain_oracle(Chain.of(P1))
    tokens, segment_ids = rows_of([(4, 4, 4), (VOCABULARY.mask,) * 5], VOCABULARY, 7)
    out = denoiser.encode(tokens, segment_ids, jnp.full((2, 1), 0.5))
    real = np.asarray(segment_ids) > 0
    assert not np.asarray(out.gaps)[real].any()
    assert not np.asarray(out.hidden)[real].any()


def test_a_chains_law_is_what_it_draws():
    chain, rng = hidden_words(), np.random.default_rng(0)
    law = chain.law()
    assert law.max_length == chain.max_length == 12
    rows, lengths = np.zeros((2_000, 12), int), np.zeros(2_000, int)
    for row in range(len(rows)):
        chance = np.append(chain.start, chain.empty)
        while (state := rng.choice(len(chance), p=chance / chance.sum())) < len(chain.place):
            rows[row, lengths[row]] = rng.choice(chain.tokens, p=chain.emission[state])
            lengths[row] += 1
            chance = np.append(chain.step[state], chain.stop[state])
    spread = law.spread(len(rows))
    assert law.total_variation(rows, lengths) < spread.floor + 4 * spread.deviation
    assert law.total_variation(rows[::-1], lengths) > spread.floor + 20 * spread.deviation
