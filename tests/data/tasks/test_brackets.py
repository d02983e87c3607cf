"""The length task's data: all balanced strings equally likely, lengths after the law."""

import collections
import itertools
import math

import numpy as np
import scipy.stats

from flexmdm_jax.data.storage.records import TRAIN, VALIDATION, read_sequences
from flexmdm_jax.data.tasks.brackets import (
    LENGTH_LAW,
    BracketsConfig,
    draw_brackets,
    entropy,
    is_balanced,
    surprise,
)


def _reduces_to_nothing(tokens):
    """Balanced by another definition: taking out adjacent pairs leaves nothing."""
    text = "".join("()x"[token] for token in tokens)
    while "()" in text:
        text = text.replace("()", "")
    return text == ""


def test_balanced_is_what_reduces_to_nothing():
    for length in range(1, 9):
        for tokens in itertools.product((0, 1), repeat=length):
            assert is_balanced(np.array(tokens)) == _reduces_to_nothing(tokens)
    assert not is_balanced(np.array([0, 2, 1]))
    assert not is_balanced(np.array([], int))


def test_every_balanced_string_is_equally_likely():
    drawn = collections.Counter(
        map(tuple, draw_brackets(8, 14_000, np.random.default_rng(0)).tolist())
    )
    every = [s for s in itertools.product((0, 1), repeat=8) if _reduces_to_nothing(s)]
    assert sorted(drawn) == sorted(every)
    assert scipy.stats.chisquare(list(drawn.values())).pvalue > 1e-4


def _count(length):
    """Number of balanced strings, by counting the ways to each height."""
    ways = {0: 1}
    for _ in range(length):
        following = collections.Counter()
        for height, count in ways.items():
            following[height + 1] += count
            if height:
                following[height - 1] += count
        ways = following
    return ways[0]


def test_entropy_is_the_mean_surprise():
    each = {length: -math.log(share / _count(length)) for length, share in LENGTH_LAW.items()}
    for length, nats in each.items():
        np.testing.assert_allclose(surprise(length), nats, rtol=1e-12)
    mean = sum(LENGTH_LAW[length] * nats for length, nats in each.items())
    np.testing.assert_allclose(entropy(), mean, rtol=1e-12)


def test_lengths_follow_the_law(tmp_path):
    dataset = BracketsConfig(num_sequences=3000, validation_fraction=0.3).write(
        tmp_path / "brackets"
    )
    counts = collections.Counter()
    for split in (TRAIN, VALIDATION):
        for sequence in read_sequences(dataset, split):
            assert is_balanced(sequence.tokens[:-1])
            assert not sequence.fixed.any()
            counts[len(sequence.tokens) - 1] += 1
    expected = [3000 * LENGTH_LAW[length] for length in sorted(LENGTH_LAW)]
    assert sorted(counts) == sorted(LENGTH_LAW)
    observed = [counts[length] for length in sorted(LENGTH_LAW)]
    assert scipy.stats.chisquare(observed, expected).pvalue > 1e-4
