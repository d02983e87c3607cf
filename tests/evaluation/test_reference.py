"""An autoregressive model as a reference: what PyTorch says of texts, one by one."""

import dataclasses
import functools
import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_gpt2
import torch_llada
from torch_gpt2 import END, VOCABULARY, Sizes

from flexmdm_jax.conversion.llada import import_model
from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.reference import open_reference

SIZES = Sizes(positions=32, layers=2)
STATE = torch_gpt2.random_state(SIZES)
# Of 0, 1, 2, 3, 40, 17 and 4 tokens.
TEXTS = ["", "a", "no", " the a", "0123456789" * 4, "a text to be read", "the cat."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return torch_gpt2.save(tmp_path_factory.mktemp("models") / "gpt2", SIZES, STATE)


@pytest.fixture(scope="module")
def reference(folder):
    return open_reference(folder)


def expected_nats(forward, tokens, piece):
    """Returns PyTorch's -log p of a text, piece by piece."""
    found = [np.zeros(0)]
    for part in torch.tensor(tokens, dtype=torch.int64).split(piece):
        if len(part) > 1:
            logits = forward(part[None])[0, :-1]
            nats = torch.nn.functional.cross_entropy(logits, part[1:], reduction="none")
            found.append(nats.numpy())
    return np.concatenate(found)


forward = functools.partial(torch_gpt2.forward, SIZES, STATE)
features = functools.partial(torch_gpt2.features, SIZES, STATE)


@pytest.mark.parametrize("piece", [None, 5, 32])
def test_a_text_is_scored_as_pytorch_scores_it(reference, piece):
    scores = reference.scores(TEXTS, piece=piece, batch_size=2)
    tokens = [reference.tokenizer.encode(text) for text in TEXTS]
    assert [len(row) for row in tokens] == [0, 1, 2, 3, 40, 17, 4]
    for row, nats in zip(tokens, scores, strict=True):
        expected = expected_nats(forward, row, piece or SIZES.positions)
        assert nats.dtype == np.float32
        np.testing.assert_allclose(nats, expected, atol=1e-5, rtol=0)
    whole = reference.nats(TEXTS, piece=piece or SIZES.positions, batch_size=2)
    np.testing.assert_array_equal(whole, np.concatenate(scores))


def test_company_changes_a_texts_nats_by_rounding_alone(reference):
    together = reference.scores(TEXTS)
    for text, nats in zip(TEXTS, together, strict=True):
        (alone,) = reference.scores([text])
        np.testing.assert_allclose(nats, alone, atol=1e-5, rtol=0)
    assert reference.scores([]) == []
    assert reference.nats([], piece=8).shape == (0,)


@pytest.mark.parametrize("most", [None, 3])
def test_features_are_what_the_final_norm_gives_at_the_last_token(reference, most):
    """Of an empty text, at END alone."""
    found = reference.features(TEXTS, max_tokens=most)
    assert found.shape == (len(TEXTS), SIZES.width)
    for text, row in zip(TEXTS, found, strict=True):
        tokens = reference.tokenizer.encode(text) or [VOCABULARY.index(END)]
        tokens = torch.tensor(tokens[: most or SIZES.positions])
        np.testing.assert_allclose(row, features(tokens[None])[0, -1], atol=1e-5, rtol=0)
    assert reference.features([]).shape == (0, SIZES.width)


def test_bfloat16_is_near(folder, reference):
    half = open_reference(folder, dtype=jnp.bfloat16)
    texts = TEXTS[4:6]
    np.testing.assert_allclose(half.scores(texts)[0], reference.scores(texts)[0], atol=0.2)
    found = half.features(texts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, reference.features(texts), atol=0.2)


def test_short_texts_are_not_padded_to_the_longest(folder, monkeypatch):
    """Lengths are powers of two from 16 on, and the context."""
    reference = open_reference(folder)
    seen, program = [], reference._nats
    monkeypatch.setitem(
        reference.__dict__, "_nats", lambda *xs: (seen.append(xs[1].shape), program(*xs))[1]
    )
    reference.scores([TEXTS[5], *["the"] * 3, *["a cat"] * 9, TEXTS[4]], piece=24, batch_size=8)
    assert seen == [(8, 24), (8, 16)]


def test_greedy_words_are_the_likeliest_up_to_end(reference):
    tokens = torch.tensor(reference.tokenizer.encode("the cat"))[None]
    for _ in range(4):
        tokens = torch.cat([tokens, forward(tokens)[:, -1].argmax(-1, keepdim=True)], dim=1)
    written = tokens[0, -4:].tolist()
    assert reference.greedy("the cat", 4) == reference.tokenizer.decode(written)
    ended = dataclasses.replace(reference, end=written[0])
    assert ended.greedy("the cat", 4) == ""


def test_a_row_of_mask_takes_no_part(tmp_path):
    """The model has one more row, which its config calls MASK."""
    sizes = dataclasses.replace(SIZES, rows=SIZES.rows + 1)
    state = torch_gpt2.random_state(sizes)
    folder = torch_gpt2.save(tmp_path / "gpt2", sizes, state, mask_token_id=SIZES.rows)
    config = json.loads((folder / "vocab.json").read_text())
    assert SIZES.rows not in config.values()

    def without_mask(tokens):
        return torch_gpt2.forward(sizes, state, tokens)[..., : SIZES.rows]

    reference = open_reference(folder)
    tokens = reference.tokenizer.encode(TEXTS[5])
    expected = expected_nats(without_mask, tokens, SIZES.positions)
    np.testing.assert_allclose(reference.scores(TEXTS[5:6])[0], expected, atol=1e-5, rtol=0)


def test_a_llama_sees_what_its_config_says_and_names_its_end(tmp_path, reference):
    """No limit is known otherwise; of several ends it is the first."""
    sizes = torch_llada.Sizes("llama", rows=len(VOCABULARY), layers=1)
    source = torch_llada.save(tmp_path / "llama", sizes, torch_llada.random_state(sizes))
    tokenizer = reference.tokenizer.files()["tokenizer.json"]
    (source / "tokenizer.json").write_bytes(tokenizer)
    import_model(source, tmp_path / "base")
    free = open_reference(tmp_path / "base")
    assert (free.context, free.end) == (None, None)
    fields = {"max_position_embeddings": 20, "eos_token_id": [7, 8]}
    described = tmp_path / "base" / "files" / "config.json"
    described.write_text(json.dumps(sizes.config() | fields))
    limited = open_reference(tmp_path / "base")
    assert (limited.context, limited.end) == (20, 7)
    (whole,), (cut,) = (model.scores(TEXTS[4:5]) for model in (free, limited))
    assert (len(whole), len(cut)) == (39, 38)
    np.testing.assert_allclose(cut[:19], whole[:19], atol=1e-5)
    with pytest.raises(UserError, match="a text has no tokens, and this model's"):
        free.features(TEXTS)
    with pytest.raises(UserError, match="piece = 21, but this model sees no more than 20 tokens"):
        limited.scores(TEXTS, piece=21)


def test_what_cannot_be_seen_at_once_is_refused(reference):
    for call, message in [
        (lambda: reference.scores(TEXTS, piece=33), "piece = 33, but this model sees no more than"),
        (lambda: reference.nats(TEXTS), "piece = 128, but this model sees no more than 32"),
        (lambda: reference.scores(TEXTS, piece=1), "piece = 1; choose a number from 2 on"),
        (lambda: reference.features(TEXTS, max_tokens=33), "max_tokens = 33, but this model sees"),
        (lambda: reference.features(TEXTS, max_tokens=0), "max_tokens = 0; choose a number from 1"),
        (lambda: reference.greedy("the cat", 40), "num together = 43, but this model sees no more"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_folder_that_is_none_is_refused(tmp_path, folder):
    with pytest.raises(UserError, match=r"neither config\.json of a GPT-2 nor base\.json"):
        open_reference(tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"no reference in .*bare: neither"):
        open_reference(tmp_path / "bare")
    small = torch_gpt2.save(tmp_path / "small", SIZES, STATE, vocab_size=SIZES.rows - 2)
    with pytest.raises(UserError, match="small: 'cat' is token 261, but the model has 261 rows"):
        open_reference(small)
