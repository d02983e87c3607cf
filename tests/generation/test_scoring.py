"""Scores of sequences given their prompts: exact on known laws, and each sequence's own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tokenizer_kinds import KINDS
from untrained import untrained_model

from flexmdm_jax.config import MeshConfig
from flexmdm_jax.conformance import P1, VOCABULARY, flexmdm_oracle, mdm_oracle
from flexmdm_jax.data.batches.rows import batch_of
from flexmdm_jax.data.tokenizers import ByteTokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.generation import scoring
from flexmdm_jax.generation.scoring import Prompted, Score, Scorer, encode_prompted
from flexmdm_jax.losses import nll_bound
from flexmdm_jax.process import Process
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.types import fold_in_rows

SEED = 3
PROCESSES = {"flexmdm": Process(VOCABULARY), "mdm": Process.mdm(VOCABULARY)}
# All that a law of up to four tokens needs.
SHORT = P1.max_length + 1


def scorer_of(denoiser, process, rows, num_times=4, devices=1):
    """Returns a scorer whose parameters are what is added to every gap."""

    def with_more(extra):
        def encode(*args):
            out = denoiser.encode(*args)
            return out.replace(gaps=out.gaps + extra)

        return dataclasses.replace(denoiser, encode=encode)

    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    return Scorer(with_more, process, num_times, mesh, rows)


@pytest.mark.parametrize("method", PROCESSES)
def test_scores_given_a_prompt_are_the_law_given_it(method):
    """Of each continuation by itself, since the bound is tight for each."""
    law, process = P1.given(prefix=(0,)), PROCESSES[method]
    oracle = flexmdm_oracle(law, 1) if process.inserts else mdm_oracle(P1, SHORT)
    sequences = [Prompted(x, 1) for x in law.sequences for _ in range(400)]
    scorer = scorer_of(oracle, process, rows=1000, num_times=16)
    score = scorer.of_sequences(jnp.float32(0), sequences, length=SHORT, seed=SEED)
    nats = score.nats.reshape(len(law.sequences), -1)
    errors = nats.std(axis=1) / nats.shape[1] ** 0.5
    assert errors.max() < 0.15
    np.testing.assert_array_less(np.abs(nats.mean(axis=1) + np.log(law.probs)), 4 * errors)
    assert score.tokens.tolist() == [len(x.tokens) - 1 for x in sequences]


# Prompts and sequences of many lengths: rows of 32 slots hold some, rows of 40 the others.
SEQUENCES = [
    Prompted((0, 2), 1),
    Prompted((0,) * 35, 20),
    Prompted((), 0),
    Prompted((4, 4, 2), 3),
    Prompted((2,) * 39, 0),
    Prompted((0,) * 31, 2),
    Prompted((2, 0), 1),
]
LENGTH = 40


@functools.cache
def alone(method, extra):
    """Returns the bound of each sequence, computed by itself in the longest rows."""
    process = PROCESSES[method]
    scorer = scorer_of(ORACLES[method], process, rows=1)
    denoiser = scorer.denoiser(extra)
    run = jax.jit(lambda key, batch: nll_bound(key, denoiser, batch, process, num_times=4))
    nats = []
    for number, (tokens, given) in enumerate(SEQUENCES):
        key = fold_in_rows(jax.random.key(SEED), np.array([number]))
        nats.append(run(key, batch_of([tokens], LENGTH, process, num_given=[given]))[0])
    return np.array(nats)


# States that the oracle does not know get uniform tokens; MDM's table cannot hold rows so long.
ORACLES = {
    "flexmdm": flexmdm_oracle(P1),
    "mdm": dataclasses.replace(
        flexmdm_oracle(P1), decode=lambda hidden: jnp.zeros((*hidden.shape[:-1], VOCABULARY.size))
    ),
}


@pytest.mark.parametrize(("method", "extra", "rows"), [("flexmdm", 0.5, 2), ("mdm", 0.0, 8)])
def test_a_score_is_what_it_would_be_alone(method, extra, rows):
    scorer = scorer_of(ORACLES[method], PROCESSES[method], rows)
    score = scorer.of_sequences(extra, SEQUENCES, length=LENGTH, seed=SEED)
    np.testing.assert_allclose(score.nats, alone(method, extra), rtol=1e-5, atol=1e-5)
    assert (score.errors > 0).sum() >= 6
    # All of one is prompt; only FlexMDM's gap behind it, or MDM's padding, is charged.
    assert score.tokens.tolist() == [1, 15, 0, 0, 39, 29, 1]
    assert np.isfinite(score.nats).all()


def test_devices_share_rows():
    scorer = scorer_of(ORACLES["flexmdm"], PROCESSES["flexmdm"], rows=8, devices=8)
    with jax.set_mesh(scorer.mesh):
        score = scorer.of_sequences(0.5, SEQUENCES, length=LENGTH, seed=SEED)
    np.testing.assert_allclose(score.nats, alone("flexmdm", 0.5), rtol=1e-5, atol=1e-5)


def test_sequences_of_many_lengths_take_few_programs(monkeypatch):
    monkeypatch.setattr(scoring, "buffer_lengths", lambda length: (16, length))
    traced = []
    scorer = scorer_of(ORACLES["flexmdm"], PROCESSES["flexmdm"], rows=3)
    counted = dataclasses.replace(
        scorer, denoiser=lambda extra: traced.append(extra) or scorer.denoiser(extra)
    )
    for seed in range(2):
        sequences = [Prompted((2,) * n, 0) for n in range(0, 40, 2)]
        counted.of_sequences(0.0, sequences, length=LENGTH, seed=seed)
    assert len(traced) == 2, "rows of 16 slots, and of 40"


def test_nothing_to_score():
    scorer = scorer_of(ORACLES["flexmdm"], PROCESSES["flexmdm"], rows=2)
    score = scorer.of_sequences(0.0, [], length=LENGTH, seed=0)
    assert score.nats.shape == score.errors.shape == score.tokens.shape == (0,)


@pytest.mark.filterwarnings("error")
def test_sequences_without_tokens_have_no_nats_per_token():
    summary = Score(np.array([1.0, 3.0]), np.ones(2), np.zeros(2, int)).summary()
    assert summary["nats_per_sequence"] == 2
    assert np.isnan([summary[f"nats_per_token{end}"] for end in ("", "_error")]).all()
    assert np.isnan(summary["perplexity"])


def test_summary_is_a_ratio_of_sums_with_its_error():
    source = np.random.default_rng(0)
    repeats = []
    for _ in range(2000):
        tokens = source.integers(1, 30, size=40)
        nats = 2.5 * tokens + source.normal(0, 3, size=40)
        repeats.append(Score(nats=nats, errors=np.ones(40), tokens=tokens).summary())
    means = [repeat["nats_per_token"] for repeat in repeats]
    errors = [repeat["nats_per_token_error"] for repeat in repeats]
    # The stated error is the spread that repetition shows, within the error of 2,000 repeats.
    np.testing.assert_allclose(np.mean(errors), np.std(means), rtol=0.1)
    assert abs(np.mean(means) - 2.5) < 4 * np.std(means) / np.sqrt(2000)
    first = repeats[0]
    np.testing.assert_allclose(first["perplexity"], np.exp(first["nats_per_token"]))


# Texts.

TEXTS, PROMPTS = ["b c", "", "a" * 20], ["ab", "cab", "ba"]


@pytest.mark.parametrize("method", PROCESSES)
def test_a_model_scores_texts_given_prompts(tiny_dataset, method):
    model = untrained_model(tiny_dataset, method, tiny.LENGTH)
    process = model.setup.process
    tokens = [
        [*prompt.encode(), *text.encode()] for prompt, text in zip(PROMPTS, TEXTS, strict=True)
    ]
    given = [len(prompt) for prompt in PROMPTS]
    batch = batch_of(tokens, tiny.LENGTH, process, num_given=given)
    keys = fold_in_rows(jax.random.key(0), batch.index)
    denoiser = model.setup.denoiser(model.params)
    run = jax.jit(lambda keys, batch: nll_bound(keys, denoiser, batch, process, num_times=3))
    with jax.set_mesh(model.setup.mesh):
        score = model.score(TEXTS, PROMPTS, num_times=3)
        assert model.score([]).nats.shape == (0,)
    np.testing.assert_allclose(score.nats, run(keys, batch), rtol=1e-4)
    assert score.tokens.tolist() == [3, 0, 20]
    assert (score.errors > 0).all()


def test_what_cannot_be_scored_is_named(tiny_dataset):
    model = untrained_model(tiny_dataset, "flexmdm", tiny.LENGTH)
    too_long = r"texts\[1\] takes 25 slots with its prompt and END, more than .*max_length = 24"
    with pytest.raises(UserError, match=too_long):
        model.score(["a" * 22, "a" * 23], ["a", "a"])
    with pytest.raises(UserError, match="2 texts, but 1 prompts; give each text its own"):
        model.score(["a", "b"], ["a"])
    with pytest.raises(UserError, match="are lists with a string for each text"):
        model.score("ab", ["a", "b"])
    with pytest.raises(UserError, match="num_times = 0, batch_size = 64; both must be at least 1"):
        model.score(["a"], num_times=0)
    with pytest.raises(UserError, match="seed = 4294967296; it must lie in"):
        model.score(["a"], seed=2**32)


def test_a_prompt_is_all_that_is_given():
    found = encode_prompted(ByteTokenizer({}), ["cd", "a"], ["ab", ""], 8)
    assert found == [Prompted([97, 98, 99, 100], 2), Prompted([97], 0)]


@pytest.mark.parametrize("name", KINDS)
def test_half_a_character_is_refused_by_all(name):
    with pytest.raises(UserError, match=r"^texts\[0\]: "):
        encode_prompted(KINDS[name].tokenizer, ["\udc00the"], [""], 40)
