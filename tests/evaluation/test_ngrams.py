"""Divergences of passages, against sums that are written out."""

import collections
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexmdm_jax.evaluation.ngrams import ngram_distances, ngrams

texts = st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=4)


def plainly(a, b, n):
    """Jensen-Shannon by its definition, from counts of tuples."""
    counts = [
        collections.Counter(x[i : i + n] for x in y for i in range(len(x) - n + 1)) for y in (a, b)
    ]
    p, q = ({k: v / sum(c.values()) for k, v in c.items()} for c in counts)
    total = 0.0
    for law in (p, q):
        for k, share in law.items():
            middle = (p.get(k, 0) + q.get(k, 0)) / 2
            total += share * math.log(share / middle) / 2
    return total if p and q else math.nan


@settings(max_examples=40, deadline=None)
@given(texts, texts)
def test_divergences_are_those_of_the_definition(a, b):
    a, b = ([tuple(x) for x in y] for y in (a, b))
    found = ngram_distances(a, b)
    for n in (1, 2, 3, 4):
        expected = plainly(a, b, n)
        assert found[f"ngram_js_{n}"] == pytest.approx(expected, nan_ok=True)


def test_bounds():
    a, b = [[1, 2, 3]], [[4, 5], [6, 7, 8]]
    for n in (1, 2):
        assert ngram_distances(a, b)[f"ngram_js_{n}"] == pytest.approx(math.log(2))
        assert ngram_distances(a, a * 3)[f"ngram_js_{n}"] == 0
    # No passage reaches from one text into the next.
    np.testing.assert_array_equal(ngrams([[1, 2], [3]], 2), [[1, 2]])
