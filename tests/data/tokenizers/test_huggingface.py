"""Ids as the tokenizers library has them, and which of them are MASK and END."""

import hashlib
import json
import pathlib
import tempfile

import numpy as np
import pytest
import tokenizers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from flexmdm_jax.data.tokenizers import (
    load_tokenizer,
    make_tokenizer,
    save_tokenizer,
    tokenizer_hash,
)
from flexmdm_jax.errors import UserError
from flexmdm_jax.types import Vocabulary

LETTERS = "abcAB <>_é"
SPECIAL = ("<eot>", "<mask>", "<|b", "ab<", "☃☃")
ORDINARY = ("<tool>", "ab", "<b>", "a b", "<eo", "__")


def added(number, name, special, **flags):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False} | flags
    return {"id": number, "content": name, "special": special, **flags}


def model_of(kind, vocab):
    """Returns a model with pieces of its own and those given."""
    pieces = [*LETTERS, "aa", "bc", *vocab]
    numbered = {piece: number for number, piece in enumerate(pieces)}
    if kind == "Unigram":
        scores = [[piece, -1.0 - number / 10] for number, piece in enumerate(pieces)]
        return {"type": kind, "unk_id": 9, "vocab": scores, "byte_fallback": False}
    model = {"type": kind, "vocab": numbered, "unk_token": "é"}
    if kind == "BPE":
        model["merges"] = [["a", "a"], ["b", "c"]]
    if kind == "WordPiece":
        model |= {"continuing_subword_prefix": "", "max_input_chars_per_word": 50}
    return model


def write(folder, model, tokens, config=None, **fields):
    """Writes tokenizer.json, and config.json if there is one; returns the specification."""
    description = {"version": "1.0", "added_tokens": tokens, "model": model, **fields}
    (folder / "tokenizer.json").write_text(json.dumps(description))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return f"hf:{folder}"


@st.composite
def descriptions(draw):
    """A tokenizer.json of any model, its added tokens in any order and partly the model's own."""
    names = draw(st.permutations([(x, True) for x in SPECIAL] + [(x, False) for x in ORDINARY]))
    names = names[: draw(st.integers(0, len(names)))]
    # As trainers of the library do with special tokens.
    own = [name for name, special in names if special and draw(st.booleans())]
    model = model_of(draw(st.sampled_from(["BPE", "Unigram", "WordLevel", "WordPiece"])), own)
    size = len(model["vocab"])
    ids = {name: size - len(own) + number for number, name in enumerate(own)}
    ids |= {name: size + n for n, (name, _) in enumerate(x for x in names if x[0] not in own)}
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    tokens = [
        added(ids[name], name, special, **{flag: draw(st.integers(0, 4)) == 0 for flag in flags})
        for name, special in names
    ]
    splitters = [None, {"type": "Whitespace"}, {"type": "WhitespaceSplit"}]
    return {
        "version": "1.0",
        "added_tokens": tokens,
        "normalizer": draw(st.sampled_from([None, {"type": "Lowercase"}])),
        "pre_tokenizer": draw(st.sampled_from(splitters)),
        "model": model,
    }


PARTS = st.lists(st.sampled_from([*LETTERS, *ORDINARY, *SPECIAL, "aa", "bc"]), max_size=12)


def spells_none(text, description):
    names = [token["content"].lower() for token in description["added_tokens"] if token["special"]]
    return not any(name in text.lower() for name in names)


@settings(max_examples=300)
@given(descriptions(), st.lists(PARTS, min_size=1, max_size=6), st.data())
def test_ids_are_the_librarys_and_none_is_special(description, parts, data):
    """Whatever the order of special and ordinary tokens, and whichever of them MASK and END are."""
    theirs = hf.Tokenizer.from_str(json.dumps(description))
    special = [token["id"] for token in description["added_tokens"] if token["special"]]
    own = len(special) >= 2 and data.draw(st.booleans())
    config = dict(zip(("mask_token_id", "eos_token_id"), special, strict=False)) if own else {}
    with tempfile.TemporaryDirectory() as folder:
        files = {"tokenizer.json": description, "config.json": config}
        for name, values in files.items():
            pathlib.Path(folder, name).write_text(json.dumps(values))
        ours = make_tokenizer(f"hf:{folder}", [])
    vocabulary = ours.vocabulary
    if own:
        assert (vocabulary.mask, vocabulary.end) == tuple(special[:2])
    texts = ["".join(part) for part in parts]
    for text, batch in zip(texts, ours.encode_batch(texts), strict=True):
        tokens = ours.encode(text)
        assert batch.tolist() == tokens
        assert not {vocabulary.mask, vocabulary.end} & set(tokens)
        if description["model"]["type"] == "BPE":
            assert not set(special) & set(tokens)
        if spells_none(text, description):
            expected = theirs.encode(text, add_special_tokens=False)
            assert tokens == expected.ids
            assert ours.decode(tokens) == theirs.decode(tokens)
            ends = [len(text[:end].encode()) for _, end in expected.offsets]
            assert ours.ends(text, np.asarray(tokens)).tolist() == ends


TOKENS = [added(12, "<eot>", True), added(13, "<tool>", False), added(14, "<mask>", True)]
NAMED = {"mask_token_id": 14, "eos_token_id": 12}


@pytest.mark.parametrize("kind", ["BPE", "Unigram", "WordLevel", "WordPiece"])
def test_an_ordinary_token_between_special_ones_keeps_its_id(tmp_path, kind):
    tokenizer = make_tokenizer(write(tmp_path, model_of(kind, []), TOKENS, NAMED), [])
    assert tokenizer.vocabulary == Vocabulary(size=15, mask=14, end=12)
    assert tokenizer.encode("a<tool>") == [0, 13]
    assert tokenizer.decode([12, 0, 13, 14]).replace(" ", "") == "a<tool>"


# Which ids MASK and END are.

LISTED = NAMED | {"eos_token_id": [12, 13]}


@pytest.mark.parametrize(
    ("config", "chosen", "mask", "end", "size"),
    [
        (None, "", 15, 16, 17),
        ({"vocab_size": 20}, "", 20, 21, 22),
        (NAMED, "", 14, 12, 15),
        (NAMED | {"vocab_size": 20}, "", 14, 12, 20),
        (NAMED | {"vocab_size": 20}, ",end=13", 14, 13, 20),
        # An autoregressive model: no MASK, one or several ends.
        ({"eos_token_id": 12}, "", 15, 16, 17),
        ({"eos_token_id": [12, 13]}, "", 15, 16, 17),
        ({"eos_token_id": 12}, ",mask=14", 14, 12, 15),
        ({"eos_token_id": [12, 13]}, ",mask=14,end=12", 14, 12, 15),
        ({"eos_token_id": [12, 13]}, ",end=12", 15, 12, 16),
        ({"eos_token_id": [12]}, ",mask=14", 14, 12, 15),
        (None, ",mask=14", 14, 15, 16),
        (None, ",end=16,mask=15", 15, 16, 17),
        (None, ",end=15", 16, 15, 17),
        # A row of the model that no token has.
        ({"vocab_size": 20}, ",mask=17,end=12", 17, 12, 20),
        (LISTED, ",end=12", 14, 12, 15),
        (NAMED | {"eos_token_id": [12]}, "", 14, 12, 15),
        ({"mask_token_id": 15, "eos_token_id": 12}, "", 15, 12, 16),
    ],
)
def test_ids_are_chosen_named_or_next(tmp_path, config, chosen, mask, end, size):
    (tmp_path / "from").mkdir()
    spec = write(tmp_path / "from", model_of("BPE", []), TOKENS, config)
    tokenizer = make_tokenizer(spec + chosen, [])
    assert tokenizer.vocabulary == Vocabulary(size=size, mask=mask, end=end)
    assert not {mask, end} & set(tokenizer.encode("a<eot><mask>b"))
    # They are a part of what the tokenizer is.
    save_tokenizer(tokenizer, tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert loaded.vocabulary == tokenizer.vocabulary
    assert tokenizer_hash(loaded) == tokenizer_hash(tokenizer)
    if config is not None and chosen:
        named = make_tokenizer(write(tmp_path / "from", model_of("BPE", []), TOKENS, {}), [])
        assert tokenizer_hash(named) != tokenizer_hash(tokenizer)


@pytest.mark.parametrize(
    ("config", "chosen", "message"),
    [
        (LISTED, "", r"config.json: eos_token_id = \[12, 13\]; say which one .* hf:DIR,end=ID"),
        (
            None,
            ",mask=14,end=14",
            "MASK = 14 and END = 14; they have to be different, and below 15",
        ),
        (None, ",mask=16", "MASK = 16; they have to be different, and below 15 or the next ids"),
        (None, ",mask=15,end=17", "MASK = 15 and END = 17; they have to be"),
        (NAMED | {"mask_token_id": 99}, "", "MASK = 99 and END = 12; they have to be"),
        (
            None,
            ",mask=1",
            r"'b', MASK = 1, is an ordinary token of texts; .*'<eot>' = 12, '<tool>'",
        ),
        (None, ",end=9", "'é', END = 9, stands for what the tokenizer does not know"),
        (NAMED | {"eos_token_id": 11}, "", "'bc', END = 11, is an ordinary token of texts"),
        (NAMED | {"eos_token_id": "12"}, "", "eos_token_id = '12'; expected a whole number"),
        (NAMED | {"mask_token_id": True}, "", "mask_token_id = True; expected a whole number"),
        ({"vocab_size": 20.5}, "", "vocab_size = 20.5; expected a whole number"),
        ([1], "", "tokenizer.json or config.json is unusable"),
        (None, ",maks=14", "has no argument 'maks'; did you mean 'mask'"),
        (None, ",mask=<mask>", "mask = '<mask>' is no id"),
        (None, ",mask=-1", "mask = '-1' is no id"),
        (None, ",mask=", "mask = '' is no id"),
    ],
)
def test_ids_that_cannot_be_are_named(tmp_path, config, chosen, message):
    spec = write(tmp_path, model_of("BPE", []), TOKENS, config)
    with pytest.raises(UserError, match=message) as error:
        make_tokenizer(spec + chosen, [])
    assert "\n" not in str(error.value)


def test_what_a_text_may_spell_is_no_mask(tmp_path):
    """Merges lead to it, or a vocabulary that is looked into before them."""
    model = model_of("BPE", ["ab"]) | {"merges": [["a", "b"]]}
    spec = write(tmp_path, model, [added(12, "ab", True)])
    with pytest.raises(UserError, match="'ab', MASK = 12, is what a text becomes that spells it"):
        make_tokenizer(f"{spec},mask=12", [])
    model = model_of("BPE", ["<mask>"]) | {"ignore_merges": True}
    spec = write(tmp_path, model, [added(12, "<mask>", True)])
    with pytest.raises(UserError, match="'<mask>', MASK = 12, is what a text becomes"):
        make_tokenizer(f"{spec},mask=12", [])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([added(13, "<a>", False), added(12, "<b>", True)], "'<a>' is 13, but .* makes it 12"),
        ([added(20, "<a>", False)], "'<a>' is 20, but the tokenizers library, .* makes it 12"),
        ([added(12, "<a>", True), added(20, "<b>", False)], "'<b>' is 20, but .* makes it 13"),
        ([added(3, "A", False), added(4, "<b>", False)], "'<b>' is 4, but .* makes it"),
    ],
)
def test_ids_that_the_library_reads_otherwise_are_refused(tmp_path, tokens, message):
    with pytest.raises(UserError, match=f"tokenizer.json: the added token {message}"):
        make_tokenizer(write(tmp_path, model_of("BPE", []), tokens), [])


def test_an_id_of_two_tokens_is_refused(tmp_path):
    """The library gives an added token the number of the model's tokens, though one may have it."""
    model = {"type": "BPE", "vocab": {"a": 0, "b": 3, "c": 4}, "merges": []}
    with pytest.raises(UserError, match="3 is the id of '<t>' and of 'b'"):
        make_tokenizer(write(tmp_path, model, [added(3, "<t>", False)]), [])


def test_an_unknown_model_is_named(tmp_path):
    spec = write(tmp_path, model_of("BPE", []) | {"type": "Trie"}, [])
    with pytest.raises(UserError, match=r"model.type = 'Trie'; only BPE, Unigram, WordLevel, Word"):
        make_tokenizer(spec, [])


def test_a_folder_is_a_name_commas_and_all(tmp_path):
    for name in ("plain", "with,comma", "with,mask=14"):
        folder = tmp_path / name
        folder.mkdir()
        spec = write(folder, model_of("BPE", []), TOKENS)
        assert make_tokenizer(spec, []).vocabulary.mask == 15
        assert make_tokenizer(f"{spec},mask=14", []).vocabulary.mask == 14
    with pytest.raises(UserError, match=r"nowhere,x/tokenizer.json: No such file"):
        make_tokenizer(f"hf:{tmp_path}/nowhere,x,mask=14", [])


def test_what_was_saved_before_these_checks_is_loaded_as_it_was(tmp_path):
    """Files as they were, and ids as they were: several ends meant that config.json named none."""
    model = model_of("BPE", []) | {"a_field_of_old": 1}
    write(tmp_path, model, TOKENS, LISTED, truncation=None)
    digest = hashlib.sha256(b"hf")
    for name in ("config.json", "tokenizer.json"):
        digest.update(name.encode() + hashlib.sha256((tmp_path / name).read_bytes()).digest())
    spec = {"kind": "hf", "sha256": digest.hexdigest()}
    (tmp_path / "tokenizer_spec.json").write_text(json.dumps(spec))
    loaded = load_tokenizer(tmp_path)
    assert loaded.vocabulary == Vocabulary(size=17, mask=15, end=16)
    assert tokenizer_hash(loaded) == spec["sha256"]


def test_a_dataset_of_old_mixes_with_a_new_one(tmp_path):
    """Where config.json says it all, nothing is added to the files, so their hash stays."""
    for config in (None, NAMED, {"eos_token_id": [12, 13]}):
        (tmp_path / str(config)).mkdir()
        spec = write(tmp_path / str(config), model_of("BPE", []), TOKENS, config)
        names = {"tokenizer.json"} | ({"config.json"} if config else set())
        assert set(make_tokenizer(spec, []).files()) == names
