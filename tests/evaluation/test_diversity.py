"""Variety of tokens against plain counting and scipy."""

import collections

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from flexmdm_jax.evaluation.diversity import (
    distinct,
    entropy_of_counts,
    sample_entropies,
    token_counts,
)

texts = st.lists(st.lists(st.integers(0, 4), max_size=8), max_size=5)


def test_entropy_of_tokens():
    counts = token_counts([[1, 1, 2], [], [2, 3, 3]], size=5)
    assert counts.tolist() == [0, 2, 2, 2, 0]
    np.testing.assert_allclose(entropy_of_counts(counts), scipy.stats.entropy([2, 2, 2]))


@given(texts)
def test_each_texts_entropy_is_that_of_its_counts(sequences):
    found = sample_entropies(sequences)
    for tokens, entropy in zip(sequences, found, strict=True):
        counts = list(collections.Counter(tokens).values())
        expected = scipy.stats.entropy(counts) if counts else np.nan
        assert entropy == pytest.approx(expected, nan_ok=True, abs=1e-12)


@given(texts, st.integers(1, 3))
def test_distinct_passages_are_counted(sequences, n):
    passages = [tuple(x[i : i + n]) for x in sequences for i in range(len(x) - n + 1)]
    expected = len(set(passages)) / len(passages) if passages else np.nan
    assert distinct(sequences, n) == pytest.approx(expected, nan_ok=True)
