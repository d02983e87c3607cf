"""Scores: sums over sequences, their errors, and the unigram model."""

import numpy as np

from flexmdm_jax.evaluation.perplexity import Score, unigram_score


def test_summary_is_a_ratio_of_sums_with_its_error():
    source = np.random.default_rng(0)
    repeats = []
    for _ in range(2000):
        tokens = source.integers(1, 30, size=40)
        nats = 2.5 * tokens + source.normal(0, 3, size=40)
        repeats.append(Score(nats=nats, tokens=tokens).summary())
    means = [repeat["nats_per_token"] for repeat in repeats]
    errors = [repeat["nats_per_token_error"] for repeat in repeats]
    # The stated error is the spread that repetition shows, within the error of 2,000 repeats.
    np.testing.assert_allclose(np.mean(errors), np.std(means), rtol=0.1)
    assert abs(np.mean(means) - 2.5) < 4 * np.std(means) / np.sqrt(2000)
    first = repeats[0]
    np.testing.assert_allclose(first["perplexity"], np.exp(first["nats_per_token"]))


def test_unigram_score_by_hand():
    """Two data symbols and END; one is added to every count."""
    counts = np.array([3, 1, 0, 2])
    score = unigram_score(counts, [np.array([0, 1, 3]), np.array([3])], end=3)
    np.testing.assert_allclose(score.nats, [-np.log(4 / 10 * 2 / 10 * 3 / 10), -np.log(3 / 10)])
    assert score.tokens.tolist() == [2, 0]
