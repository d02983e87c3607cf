"""What texts are measured by: which figures, and that controls are told apart."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import tiny

from flexmdm_jax.data.storage.records import TRAIN, read_split
from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.controls import SHUFFLED, TEXT, UNIGRAM, make_controls
from flexmdm_jax.evaluation.measures import METRICS, OWN, Measures, chosen_metrics
from flexmdm_jax.evaluation.report import telling_tables
from flexmdm_jax.evaluation.suite import held_out_lengths


class Bigrams:
    """A reference that knows pairs of neighbouring letters of a text."""

    def __init__(self, text):
        self.counts = np.ones((256, 256))
        for a, b in itertools.pairwise(text):
            self.counts[ord(a), ord(b)] += 1

    def scores(self, texts):
        rows = self.counts / self.counts.sum(1, keepdims=True)
        pairs = [(x.encode("latin-1")[:-1], x.encode("latin-1")[1:]) for x in texts]
        return [-np.log(rows[list(a), list(b)]) for a, b in pairs]

    def features(self, texts):
        counts = [np.bincount(list(x.encode("latin-1")), minlength=256) for x in texts]
        return np.stack(counts).astype(float)


WORDS = ["the", "cat", "saw", "a", "dog", "and", "then", "while", "bird", "sang", "on"]


def sentences(num, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(3, 12))) for _ in range(num)]


def tokens_of(texts):
    return [np.frombuffer(text.encode(), np.uint8).astype(int) for text in texts]


@pytest.fixture(scope="module")
def measures():
    held_out = sentences(150, 1)
    return Measures(
        metrics=METRICS,
        lengths=np.array([len(x) for x in held_out]),
        held_out=tokens_of(held_out),
        decode=lambda tokens: bytes(tokens).decode(),
        vocabulary_size=256,
        reference=Bigrams(" ".join(sentences(400, 2))),
    )


def test_all_metrics_tell_text_from_shuffled_text(measures):
    text = tokens_of(sentences(100, 3))
    rng = np.random.default_rng(0)
    rows = {TEXT: measures.of(text), SHUFFLED: measures.of([rng.permutation(x) for x in text])}
    a, b = rows.values()
    assert a["generative_perplexity"] < b["generative_perplexity"] / 3
    assert a["ngram_js_2"] < b["ngram_js_2"]
    assert a["token_entropy"] == pytest.approx(b["token_entropy"])
    assert a["length_w1"] == b["length_w1"]
    # Counts of letters are the same whatever their order: such features cannot tell.
    assert a["mauve"] == pytest.approx(b["mauve"], abs=1e-6)
    tables, notes = telling_tables(rows)
    shown = {key for table in tables for key in table.columns}
    assert "generative_perplexity" in shown
    assert "mauve" not in shown
    assert "mauve" in notes[0]


def test_a_perplexity_never_stands_alone(measures):
    only = dataclasses.replace(measures, metrics=("perplexity",))
    found = only.of(tokens_of(sentences(20, 4)))
    assert {"sample_entropy", "distinct_2", "length_mean", "too_short"} <= set(found)
    assert "ngram_js_2" not in found
    assert "length_tv" not in found


def test_empty_texts_are_counted_and_nothing_breaks(measures):
    some = measures.of([np.zeros(0, int), *tokens_of(["the cat saw the dog"])])
    assert (some["empty"], some["unscored"], some["texts"]) == (0.5, 0.5, 2)
    none = measures.of([np.zeros(0, int)] * 3)
    assert none["empty"] == 1
    assert math.isnan(none["generative_perplexity"])
    assert math.isnan(none["sample_entropy"])
    assert none["length_mean"] == 0


def test_controls_are_made_of_the_training_split(tmp_path):
    dataset = tiny.write_dataset(tmp_path / "d", tiny.texts())
    train = [tuple(x[:-1].tolist()) for x in read_split(dataset, TRAIN)]
    texts, counts = make_controls(dataset, 60, 0)
    assert counts.sum() == sum(len(x) + 1 for x in train)
    assert {tuple(x.tolist()) for x in texts[TEXT]} <= set(train)
    assert len(texts[TEXT]) == len(texts[UNIGRAM]) == 60
    for one, shuffled, drawn in zip(*texts.values(), strict=True):
        assert sorted(one) == sorted(shuffled)
        assert len(drawn) == len(one)
        assert (counts[drawn] > 0).all()
        assert dataset.vocabulary.end not in drawn
    assert any((a != b).any() for a, b in zip(texts[TEXT], texts[SHUFFLED], strict=True))
    # More than there are: all of them.
    assert len(make_controls(dataset, 10_000, 0).texts[TEXT]) == len(train)
    assert len(held_out_lengths(dataset)) + len(train) == 200


def test_what_is_chosen_is_computed():
    assert chosen_metrics([], False) == OWN
    assert chosen_metrics([], True) == METRICS
    assert chosen_metrics(["ngrams"], False) == ("ngrams",)


@pytest.mark.parametrize(
    ("names", "reference", "message"),
    [
        (["likelyhood"], False, "'likelyhood' is none of likelihood, lengths"),
        (["mauve"], False, "--metrics=mauve asks an autoregressive model; .*--reference"),
        (["lengths"], True, "--reference is for perplexity and mauve"),
    ],
)
def test_what_cannot_be_computed_is_said(names, reference, message):
    with pytest.raises(UserError, match=message):
        chosen_metrics(names, reference)
