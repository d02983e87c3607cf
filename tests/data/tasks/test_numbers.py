"""Numbers in words: what is spelled is read, and nothing else is; lengths and nats by counting."""

import collections
import itertools
import math

import effort
import numpy as np
import pytest
import scipy.stats

from flexmdm_jax.data.storage.records import TRAIN, VALIDATION, read_sequences
from flexmdm_jax.data.tasks.numbers import (
    SYMBOLS,
    NumbersConfig,
    NumbersLaw,
    number_of,
    spell,
)

# Written by hand.
KNOWN = {
    1: "one",
    10: "ten",
    13: "thirteen",
    20: "twenty",
    42: "forty-two",
    99: "ninety-nine",
    100: "one hundred",
    101: "one hundred and one",
    518: "five hundred and eighteen",
    1_000: "one thousand",
    1_007: "one thousand and seven",
    1_100: "one thousand one hundred",
    12_042: "twelve thousand and forty-two",
    742_309: "seven hundred and forty-two thousand three hundred and nine",
    1_000_000: "one million",
    1_000_007: "one million and seven",
    1_007_000: "one million seven thousand",
    80_015_016: "eighty million fifteen thousand and sixteen",
    600_000_700: "six hundred million seven hundred",
}
# Each group of three digits at its edges.
GROUPS = (0, 1, 9, 10, 19, 20, 21, 99, 100, 101, 120, 121, 199, 900, 999)


def test_numbers_written_by_hand():
    for number, text in KNOWN.items():
        assert spell(number) == text
        assert number_of(text) == number


def test_every_number_comes_back():
    for number in range(1, effort.either(20_000, 1_000_000)):
        assert number_of(spell(number)) == number
    for millions, thousands, ones in itertools.product(GROUPS, repeat=3):
        number = millions * 1_000_000 + thousands * 1_000 + ones
        if number:
            assert number_of(spell(number)) == number


def test_nothing_is_read_but_what_is_spelled():
    """All texts of few words: those that are read spell their number, and are as many as exist."""
    words = ("one", "nine", "ten", "forty", "forty-two", "hundred", "and", "thousand", "million")
    read = collections.Counter()
    for length in range(6):
        for text in map(" ".join, itertools.product(words, repeat=length)):
            number = number_of(text)
            if number is not None:
                assert spell(number) == text
                read[length] += 1
    # Below a hundred there are 5 here, of which 2 count hundreds.
    group = {1: 5, 2: 2, 4: 10}
    with_scale = {length + 1: 2 * count for length, count in group.items()}
    assert read[0] == 0
    assert read[1] == group[1]
    assert read[2] == group[2] + with_scale[2]
    # "nine hundred million", "one million nine thousand" and "one million and nine".
    assert read[3] == with_scale[3]
    assert read[4] == group[4] + 5 * 5 + with_scale[2] * (group[1] + group[2])
    assert number_of("eleventy") is number_of("zero") is number_of("one two") is None


def _lengths_by_enumeration(max_digits):
    law = collections.Counter()
    for digits in range(1, max_digits + 1):
        numbers = range(10 ** (digits - 1), 10**digits)
        for number in numbers:
            law[len(spell(number).split())] += 1 / len(numbers) / max_digits
    return law


@pytest.mark.parametrize("max_digits", [1, 2, 3, 4, effort.either(5, 6)])
def test_the_law_of_lengths_is_that_of_all_numbers(max_digits):
    lengths = NumbersLaw(max_digits).lengths()
    expected = _lengths_by_enumeration(max_digits)
    np.testing.assert_allclose(lengths, [expected[n] for n in range(len(lengths))], atol=1e-12)
    assert max(expected) == len(lengths) - 1


def test_the_longest_law_counts_lengths_as_its_draws_have_them():
    law = NumbersLaw(9)
    np.testing.assert_allclose(law.lengths().sum(), 1)
    assert len(law.lengths()) == 15, "four words to a group, and two scales"
    drawn = law.draw(20_000, np.random.default_rng(0))
    found = np.bincount([len(spell(number).split()) for number in drawn], minlength=15)
    likely = law.lengths() > 1e-3
    observed = np.append(found[likely], found[~likely].sum())
    expected = np.append(law.lengths()[likely], law.lengths()[~likely].sum())
    assert scipy.stats.chisquare(observed, 20_000 * expected / expected.sum()).pvalue > 1e-4


def test_entropy_is_the_mean_surprise():
    law = NumbersLaw(4)
    nats = [law.surprise(number) for number in range(1, 10_000)]
    chances = np.exp(-np.array(nats))
    np.testing.assert_allclose(chances.sum(), 1)
    np.testing.assert_allclose(law.entropy(), (chances * nats).sum())
    np.testing.assert_allclose(law.surprise(7), math.log(4 * 9))


def test_the_dataset_holds_numbers_of_the_law_and_is_its_seeds(tmp_path):
    made = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        config = NumbersConfig(300, max_digits=5, validation_fraction=0.2, seed=seed)
        made[name] = config.write(tmp_path / name)
    assert made["a"].sha256 == made["b"].sha256 != made["c"].sha256
    dataset = made["a"]
    assert dataset.task == {"kind": "numbers", "max_digits": 5}
    # Five digits have at most "ninety-nine thousand nine hundred and ninety-nine" and END.
    assert dataset.max_length == 7
    assert sum(dataset.num_sequences.values()) == 300
    decode = dataset.tokenizer().decode
    for split in (TRAIN, VALIDATION):
        for sequence in read_sequences(dataset, split):
            assert 1 <= number_of(decode(sequence.tokens.tolist())) < 100_000
            assert not sequence.fixed.any()


def test_the_tokenizer_has_every_word_once():
    assert len(set(SYMBOLS)) == len(SYMBOLS) == 99 + 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_digits": 10}, r"max_digits = 10; it must lie in \[1, 9\]"),
        ({"max_digits": 0}, r"max_digits = 0; it must lie in \[1, 9\]"),
        ({"num_sequences": 1}, "num_sequences = 1; it must be at least 2"),
        ({"validation_fraction": 1.0}, r"validation_fraction = 1.0; it must lie"),
    ],
)
def test_values_out_of_range_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        NumbersConfig(**values)
