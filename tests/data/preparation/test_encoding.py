"""From documents to sequences: what a tokenizer fails on is named, what it changes is counted."""

import json

import numpy as np
import pytest
import tokenizers as hf

from flexmdm_jax.data.preparation.encoding import Encoder
from flexmdm_jax.data.preparation.runners import processes
from flexmdm_jax.data.preparation.splitting import SPLIT_RULES
from flexmdm_jax.data.preparation.units import Plan, prepare_dataset
from flexmdm_jax.data.sources.documents import Document
from flexmdm_jax.data.storage.inspection import summary
from flexmdm_jax.data.tokenizers import (
    TOKENIZERS,
    ByteTokenizer,
    GPT2Tokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    SymbolTokenizer,
)
from flexmdm_jax.errors import UserError


def _encoder(tokenizer, rule="document", maximum=1 << 22, **options):
    return Encoder(SPLIT_RULES[rule], tokenizer, maximum, **options)


def _documents(texts):
    return [Document(text, lambda n=n: f"file, line {n}") for n, text in enumerate(texts, start=1)]


def _pieces(encoder, texts):
    return [
        (text, tokens.tolist())
        for encoded in encoder.encode(_documents(texts))
        for text, tokens in encoded.pieces()
    ]


class PanicException(BaseException):
    """As Rust's panics reach Python: no Exception."""


class Fussy(ByteTokenizer):
    """Fails on texts with an exclamation mark; in batches it does not say on which."""

    def __init__(self, error):
        super().__init__({})
        self._error = error

    def encode_batch(self, texts):
        if any("!" in text for text in texts):
            raise self._error
        return super().encode_batch(texts)


ERRORS = [
    ValueError("odd\ntwo lines"),
    Exception(),
    RecursionError("deep"),
    UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
    UserError("no symbol"),
    PanicException("index out of bounds"),
]
TEXTS = ["one", "", "two\n\ntoo", "thr!ee", "four", "fi\n\nv!e", "six"] * 3


@pytest.mark.parametrize("rule", SPLIT_RULES)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_a_tokenizer_raises_names_the_document(rule, error):
    with pytest.raises(UserError, match=r"^file, line 4: the tokenizer cannot encode") as caught:
        _pieces(_encoder(Fussy(error), rule), TEXTS)
    assert "\n" not in str(caught.value)
    lenient = _encoder(Fussy(error), rule, skip_bad=True)
    good = [text for text in TEXTS if "!" not in text]
    plain = _encoder(ByteTokenizer({}), rule)
    assert _pieces(lenient, TEXTS) == _pieces(plain, good)
    counts, expected = lenient.noted()["counts"], plain.noted()["counts"]
    assert counts == expected | {"bad_documents": 6}
    assert expected["documents"] == len(good)
    assert expected["characters"] == sum(map(len, good))
    assert expected["empty_documents"] == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_no_bad_document(error):
    with pytest.raises(error):
        _pieces(_encoder(Fussy(error()), skip_bad=True), TEXTS)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_document_that_cannot_be_encoded_has_file_and_line(tmp_path, workers):
    """Symbols are the tokenizer of ours that fails, on what is none."""
    lines = [json.dumps({"text": text}) for text in ["a b"] * 40 + ["a c"] + ["b a b"] * 40]
    (tmp_path / "c.jsonl").write_text("\n".join([*lines[:10], "", *lines[10:]]))
    (tmp_path / "s.json").write_text('["a", "b"]')
    plan = Plan(
        f"jsonl:{tmp_path}/c.jsonl",
        f"symbols:{tmp_path}/s.json",
        unit_bytes=500,
        validation_fraction=0.5,
        split_seed=2,
    )
    with pytest.raises(UserError, match=r"c\.jsonl, line 42: .* encode this text \('c' is no"):
        prepare_dataset(tmp_path / "d", plan, processes(workers))
    dataset = prepare_dataset(tmp_path / "d", plan, processes(workers), skip_bad=True)
    assert dataset.metadata["counts"]["bad_documents"] == 1
    assert "80 documents, 1 bad documents left out" in summary(dataset)


def test_what_is_split_or_lost_is_counted():
    class Deaf(ByteTokenizer):
        def encode_batch(self, texts):
            return super().encode_batch([text.replace("x", "") for text in texts])

    encoder = _encoder(Deaf({}), "paragraph", maximum=3)
    pieces = _pieces(encoder, ["abc\n\nabcd", "xx\n\nabcdefgh", " "])
    found = " ".join(bytes(tokens).decode() for _, tokens in pieces)
    assert found == "abc ab cd ab cd ef gh"
    counts = encoder.noted()["counts"]
    assert counts["texts"] == 4
    assert counts["split_texts"] == 2
    assert counts["lost_texts"] == 1
    assert counts["empty_documents"] == 1


def _sentencepiece(folder, **options):
    """A model that normalises, and one without bytes to fall back on."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat", "a dog ran in the fog"] * 20),
        model_prefix=str(folder / "model"),
        vocab_size=40,
        model_type="bpe",
        minloglevel=2,
        **options,
    )
    return SentencePieceTokenizer(
        {SentencePieceTokenizer.MODEL: (folder / "model.model").read_bytes()}
    )


def _huggingface(model, **parts):
    tokenizer = hf.Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return HuggingFaceTokenizer({HuggingFaceTokenizer.TOKENIZER: tokenizer.to_str().encode()})


def _byte_level(**parts):
    alphabet = {byte: n for n, byte in enumerate(hf.pre_tokenizers.ByteLevel.alphabet())}
    level = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _huggingface(
        hf.models.BPE(vocab=alphabet, merges=[]),
        pre_tokenizer=level,
        decoder=hf.decoders.ByteLevel(),
        **parts,
    )


def _gpt2():
    alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
    ranks = {byte: n for n, byte in enumerate(alphabet)} | {"<|endoftext|>": 256}
    files = {"encoder.json": json.dumps(ranks).encode(), "vocab.bpe": b"#version: 0.2\n"}
    return GPT2Tokenizer(files)


MAKERS = {
    "bytes": lambda folder: ByteTokenizer({}),
    "gpt2": lambda folder: _gpt2(),
    "symbols": lambda folder: SymbolTokenizer.of(["a", "b", "🙂"]),
    "hf": lambda folder: _byte_level(),
    "hf lower-cased": lambda folder: _byte_level(normalizer=hf.normalizers.Lowercase()),
    "hf of words": lambda folder: _huggingface(
        hf.models.WordLevel({"a": 0, "?": 1}, unk_token="?"),
        pre_tokenizer=hf.pre_tokenizers.Whitespace(),
    ),
    "hf without unknowns": lambda folder: _huggingface(
        hf.models.WordLevel({"a": 0}, unk_token="?")
    ),
    "sentencepiece": _sentencepiece,
    "sentencepiece identity": lambda folder: SentencePieceTokenizer.train(["a b c", "c b a"], 265),
}


def test_every_kind_of_tokenizer_is_there():
    assert {name.split()[0] for name in MAKERS} == set(TOKENIZERS)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return {name: make(tmp_path_factory.mktemp("tokenizer")) for name, make in MAKERS.items()}


ODD_TEXTS = [
    "",
    " ",
    "\n",
    " \n\n\t\r\n ",
    "\0",
    "a\0b\0",
    "a" * 100_000,
    " " * 20_000 + "a",
    "a\n\n" * 1_000,
    "\u200f\u200eשלום\u202e",
    "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪",
    "e\u0301\u0300" * 50,
    "<|endoftext|><|mdm_mask|><unk><s></s><pad>[MASK]",
    "<0x41>▁▁ Ġ",
    "\ufeffa\ufffe\uffff\U0010ffff",
    "\x7f\x80\x9f\x1b[31m",
    "ﬁ Ⅷ ＡＢＣ \u00ad\u3000",
    "\u2028\u2029\x0b\x0c\x1c\x85",
]


@pytest.mark.parametrize("rule", SPLIT_RULES)
@pytest.mark.parametrize("name", MAKERS)
def test_odd_texts_are_encoded_or_named(kinds, name, rule):
    tokenizer = kinds[name]
    ids = tokenizer.vocabulary
    for number, text in enumerate(ODD_TEXTS):
        encoder = _encoder(tokenizer, rule, maximum=50)
        try:
            pieces = _pieces(encoder, [text])
        except UserError as error:
            named = str(error)
            assert named.startswith("file, line 1: the tokenizer"), number
            continue
        for _, tokens in pieces:
            assert 0 < len(tokens) <= 50
            assert min(tokens) >= 0
            assert max(tokens) < ids.size
            assert not {ids.mask, ids.end} & set(tokens)
        counts = encoder.noted()["counts"]
        assert counts["texts"] == len(SPLIT_RULES[rule].texts(text))
        if len(text) < 1_000:
            lost = sum(not tokenizer.encode(part) for part in SPLIT_RULES[rule].texts(text))
            assert counts["lost_texts"] == lost


@pytest.mark.parametrize("name", MAKERS)
def test_texts_that_do_not_come_back_are_counted(kinds, name):
    """Few enough characters that all texts are checked."""
    tokenizer = kinds[name]
    texts = ["a b", "The cat", "a  b ", "the cat", "ﬁ", "a ü b", "a b 🙂"]
    encoder = _encoder(tokenizer, skip_bad=True)
    usable = {text for text, _ in _pieces(encoder, texts)}
    noted = encoder.noted()
    lines = [
        line
        for line, text in enumerate(texts, start=1)
        if text in usable and tokenizer.decode(tokenizer.encode(text)) != text
    ]
    assert noted["counts"]["bad_documents"] == len(texts) - len(usable)
    assert noted["counts"]["checked_texts"] == len(usable)
    assert noted["counts"]["changed_texts"] == len(lines)
    exact = {"bytes", "gpt2", "hf", "sentencepiece identity"}
    assert (not lines) == (name in exact or not usable)
    if lines:
        assert noted["first_changed_text"].startswith(f"file, line {lines[0]}: ")


def test_of_much_text_a_sample_is_checked():
    rng = np.random.default_rng(0)
    texts = ["x" * n for n in rng.integers(1, 2_000, 3_000).tolist()]

    class Short(ByteTokenizer):
        def decode(self, tokens):
            return super().decode(tokens)[:-1]

    encoder = _encoder(Short({}), "paragraph")
    _pieces(encoder, texts)
    counts = encoder.noted()["counts"]
    assert counts["changed_texts"] == counts["checked_texts"]
    # A two-hundredth of 3 million characters, and the first 20,000, of texts of 1,000.
    assert counts["checked_texts"] == pytest.approx(35, abs=12)


def test_a_preparation_says_what_its_tokenizer_changes(tmp_path, kinds):
    texts = [f"line {number}" for number in range(98)] + ["The ﬁrst", "Title"]
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    for name, files in (("lower", "hf lower-cased"), ("same", "hf")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_bytes(kinds[files].files()["tokenizer.json"])
    found = {}
    for name in ("lower", "same"):
        plan = Plan(f"jsonl:{tmp_path}/c.jsonl", f"hf:{tmp_path}/{name}", unit_bytes=700)
        found[name] = summary(prepare_dataset(tmp_path / f"of_{name}", plan, processes(1)))
    assert (
        "tokenizer: 2 of 100 checked texts (2.0 %) do not come back as they were "
        f'(first: {tmp_path}/c.jsonl, line 99: "The ﬁrst" became "the ﬁrst")'
    ) in found["lower"]
    assert "tokenizer: 100 checked texts come back as they were" in found["same"]
