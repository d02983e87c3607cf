"""Generative perplexity in both protocols, against loops."""

import math

import numpy as np
import pytest

from flexmdm_jax.evaluation.fluency import SHORT, generative_perplexity


def test_both_protocols_by_hand():
    rng = np.random.default_rng(0)
    # Scored tokens: of a text of ten or eleven, nine or ten.
    nats = [rng.exponential(2.0, size) for size in (0, 1, SHORT - 1, SHORT, 40, 200)]
    found = generative_perplexity(nats)
    total = sum(float(x) for text in nats for x in text)
    count = sum(len(text) for text in nats)
    assert found["generative_perplexity"] == pytest.approx(math.exp(total / count))
    own = [math.exp(sum(text) / len(text)) for text in nats if len(text) + 1 > SHORT]
    assert len(own) == 3
    assert found["generative_perplexity_per_text"] == pytest.approx(sum(own) / 3)
    assert found["too_short"] == 0.5
    assert found["unscored"] == pytest.approx(1 / 6)


def test_a_text_of_high_perplexity_decides_the_mean_over_texts_alone():
    nats = [np.full(100, 1.0)] * 99 + [np.full(11, 12.0)]
    found = generative_perplexity(nats)
    assert found["generative_perplexity"] < 3
    assert found["generative_perplexity_per_text"] > 1000


@pytest.mark.parametrize("nats", [[np.zeros(0)] * 3, [np.ones(3)], [np.ones(3), np.zeros(0)]])
def test_texts_too_short_to_score_give_no_number_and_are_counted(nats):
    found = generative_perplexity(nats)
    assert math.isnan(found["generative_perplexity_per_text"])
    assert found["too_short"] == 1
    some = any(len(text) for text in nats)
    assert math.isnan(found["generative_perplexity"]) != some
