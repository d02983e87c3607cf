"""The unigram model, by hand."""

import numpy as np

from flexmdm_jax.evaluation.unigram import unigram_score


def test_unigram_score_by_hand():
    """Two data symbols and END; one is added to every count."""
    counts = np.array([3, 1, 0, 2])
    score = unigram_score(counts, [np.array([0, 1, 3]), np.array([3])], end=3)
    np.testing.assert_allclose(score.nats, [-np.log(4 / 10 * 2 / 10 * 3 / 10), -np.log(3 / 10)])
    assert score.errors.tolist() == [0, 0]
    assert score.tokens.tolist() == [2, 0]
