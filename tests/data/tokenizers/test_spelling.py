"""What a token stands for, and texts that stand behind others: compared with the libraries."""

import json
import random

import pytest
import tokenizers as hf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizer_kinds import (
    END,
    KINDS,
    MASK,
    TOOL,
    WORDS,
    byte_level,
    huggingface,
    library_decode,
    sentencepiece_model,
)

from flexmdm_jax.data.tokenizers.base import piece_behind, shares
from flexmdm_jax.data.tokenizers.decoders import reader_of


def valid(data: bytes) -> bool:
    return data.decode(errors="replace").encode() == data


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=25)
@given(data=st.data())
def test_spelled_tokens_are_the_librarys_text(name, data):
    """Whatever tokens come, special ones and ids without a token among them."""
    tokenizer = KINDS[name].tokenizer
    ids = st.lists(st.integers(0, tokenizer.vocabulary.size - 1), max_size=8)
    tokens = data.draw(ids) + tokenizer.encode(data.draw(KINDS[name].texts))
    spelled = tokenizer.spell(tokens)
    assert len(spelled) == len(tokens)
    assert tokenizer.decode(tokens) == b"".join(spelled).decode(errors="replace")
    added = name.startswith("hf") and {"é!", "ñandú"} & set(map(tokenizer.decode, zip(tokens)))
    if valid(b"".join(spelled)) and not added:
        assert b"".join(spelled).decode() == library_decode(tokenizer, tokens)


@pytest.mark.parametrize("name", KINDS)
def test_a_token_stands_for_the_same_in_the_middle_but_for_spaces_between_words(name):
    kind, source = KINDS[name], random.Random(0)
    tokenizer, vocabulary = kind.tokenizer, kind.tokenizer.vocabulary
    around = tokenizer.encode("the"), tokenizer.encode("cat", first=False)
    for token in source.sample(range(vocabulary.size), min(vocabulary.size, 300)):
        piece = tokenizer.piece(token)
        spelled = tokenizer.spell([*around[0], token, *around[1]])[len(around[0])]
        joints = (b" " + piece, piece + b" ") if kind.joints else ()
        assert spelled in (piece, *joints)
        assert piece_behind(tokenizer, token) in (piece, *joints[:1])
    for token in (vocabulary.mask, vocabulary.end, vocabulary.size, vocabulary.size + 5, -1):
        assert tokenizer.piece(token) == b""
        assert tokenizer.spell([token]) == [b""]


@pytest.mark.parametrize("name", [name for name in KINDS if not KINDS[name].joints])
@settings(max_examples=25)
@given(data=st.data())
def test_parts_come_back_one_after_another(name, data):
    kind = KINDS[name]
    parts = data.draw(st.lists(kind.texts, min_size=1, max_size=4))
    parts[0] = kind.opening(parts[0])
    # Behind nothing, a space is a prefix to some.
    assume(parts[0] or not kind.drops_space)
    encoded = [kind.tokenizer.encode(part, first=n == 0) for n, part in enumerate(parts)]
    whole = [token for tokens in encoded for token in tokens]
    assert kind.tokenizer.decode(whole) == "".join(parts)
    for part, tokens in zip(parts[1:], encoded[1:], strict=True):
        assert b"".join(map(kind.tokenizer.piece, tokens)).decode() == part
    assert not {kind.tokenizer.vocabulary.mask, kind.tokenizer.vocabulary.end} & set(whole)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=20)
@given(words=st.lists(st.sampled_from(WORDS), min_size=2, max_size=6), data=st.data())
def test_a_text_cut_before_a_space_has_the_tokens_of_the_whole(name, words, data):
    """What a model was trained on is what it gets in parts."""
    tokenizer, whole = KINDS[name].tokenizer, " ".join(words)
    at = len(" ".join(words[: data.draw(st.integers(1, len(words) - 1))]))
    head, tail = tokenizer.encode(whole[:at]), tokenizer.encode(whole[at:], first=False)
    assert head + tail == tokenizer.encode(whole)


@pytest.mark.parametrize("removed", [True, False])
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_sentencepiece_keeps_one_space_where_it_removes_others(removed, kind):
    options = {"model_type": kind, "remove_extra_whitespaces": removed, "vocab_size": 300}
    tokenizer = sentencepiece_model(**options)
    pieces = lambda text: b"".join(map(tokenizer.piece, tokenizer.encode(text, first=False)))  # noqa: E731
    if removed:
        spaces = {" ": " ", "  ": " ", "  the  cat  ": " the cat", "the ": "the", "": ""}
        # The rules that the model's normaliser has besides.
        spaces |= {"　the": " the", "the\ncat": "the cat", "ｔhe": "the"}
    else:
        spaces = {text: text for text in (" ", "  ", "  the  cat  ", "the ", "")}
    assert {text: pieces(text).decode() for text in spaces} == spaces


def test_unknown_characters_of_sentencepiece_stay_apart_from_what_is_before():
    """Two unknown ones in a row are one token of it, so nothing may be put before a text."""
    tokenizer = sentencepiece_model(model_type="unigram", vocab_size=60, byte_fallback=False)
    unknown = tokenizer.encode("the ☃", first=False)[-1]
    assert tokenizer.encode("☃ the", first=False) == [unknown, *tokenizer.encode("the")]
    assert tokenizer.piece(unknown) == " ⁇ ".encode()


def test_sentencepiece_control_is_nothing_and_unused_is_what_it_says():
    tokenizer = sentencepiece_model(control_symbols=["<c>"], user_defined_symbols=["<u>", "\n"])
    ids = {tokenizer._processor.id_to_piece(i): i for i in range(tokenizer._processor.vocab_size())}
    names = ("<c>", "<s>", "</s>", "<u>", "\n", "▁", "<0xC3>")
    expected = (b"", b"", b"", b"<u>", b"\n", b" ", b"\xc3")
    assert tuple(tokenizer.piece(ids[name]) for name in names) == expected
    tokens = [ids["<s>"], *tokenizer.encode(" the"), ids["<c>"], *tokenizer.encode("cat<u>")]
    assert tokenizer.decode(tokens) == library_decode(tokenizer, tokens)


def test_a_model_that_rewrites_decoded_texts_has_its_way(tmp_path):
    (tmp_path / "rules.tsv").write_text("61\t41\n")
    tokenizer = sentencepiece_model(denormalization_rule_tsv=str(tmp_path / "rules.tsv"))
    tokens = tokenizer.encode("the cat sat")
    assert tokenizer.decode(tokens) == library_decode(tokenizer, tokens) == "the cAt sAt"
    assert b"".join(tokenizer.spell(tokens)) == b"the cAt sAt"


# Hugging Face.


@pytest.mark.parametrize("prefix", [True, False])
def test_added_tokens_stand_for_their_text(prefix):
    """The library's byte-level decoder takes their letters for bytes."""
    tokenizer = byte_level(add_prefix_space=prefix)
    for text in ("é!", "ñandú", TOOL):
        (token,) = tokenizer.encode(text)
        assert tokenizer.piece(token).decode() == text
        assert tokenizer.decode([token]) == text
    assert "�" in library_decode(tokenizer, tokenizer.encode("é!"))
    assert tokenizer.decode(tokenizer.encode(f" é!{TOOL}ñandú", first=False)) == f" é!{TOOL}ñandú"


@pytest.mark.parametrize("name", [name for name in KINDS if name.startswith("hf")])
def test_special_tokens_in_parts_are_text(name):
    tokenizer = KINDS[name].tokenizer
    no_data = {tokenizer.vocabulary.mask, tokenizer.vocabulary.end}
    for text in (MASK, END, f" {MASK}", f"the{MASK}{END} cat"):
        for first in (True, False):
            assert not no_data & set(tokenizer.encode(text, first=first))


def test_a_prefix_before_each_word_is_left_out_of_the_first_alone():
    tokenizer = KINDS["hf words"].tokenizer
    text = "sat on the"
    spelled = [tokenizer.piece(token) for token in tokenizer.encode(text, first=False)]
    assert b"".join(spelled) == text.encode()
    # What splits words off drops spaces: that there was one, the prefix says.
    for lead in (" ", "\n", "  "):
        assert tokenizer.encode(lead + text, first=False) == tokenizer.encode(text)


def test_stripping_spares_what_stands_behind_something():
    tokenizer = huggingface(
        "Unigram",
        normalizer=hf.normalizers.Sequence([hf.normalizers.Strip(), hf.normalizers.Lowercase()]),
        pre_tokenizer=hf.pre_tokenizers.Metaspace(),
        decoder=hf.decoders.Metaspace(),
    )
    assert tokenizer.encode(" The", first=False) == tokenizer.encode("the")
    assert tokenizer.piece(tokenizer.encode("The", first=False)[0]) == b"the"
    assert tokenizer.decode(tokenizer.encode(" The ")) == "the"


CONTENTS = (
    *("the", "▁the", "▁▁", "▁", "##a", "##", "he</w>", "</w>", " ", " x ", "x", "é", "Ġthe"),
    *("Ã", "©", "<0xC3>", "<0xa9>", "<0x41>", "<0x20>", "<0x4>", ".", "n't", "'s", " ' ", "☃", "-"),
)
SCHEMES = st.sampled_from(["always", "first", "never"])
STEPS = st.one_of(
    st.just({"type": "ByteFallback"}),
    st.just({"type": "Fuse"}),
    st.just({"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}),
    st.builds(
        lambda old, new: {"type": "Replace", "pattern": {"String": old}, "content": new},
        st.sampled_from(["▁", "the", "x"]),
        st.sampled_from([" ", "", "▁▁"]),
    ),
    st.builds(
        lambda content, start: {"type": "Strip", "content": content, "start": start, "stop": 0},
        st.sampled_from([" ", "▁", "x"]),
        st.integers(0, 2),
    ),
    st.builds(
        lambda scheme: {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme}, SCHEMES
    ),
    st.builds(
        lambda cleanup: {"type": "WordPiece", "prefix": "##", "cleanup": cleanup}, st.booleans()
    ),
    st.just({"type": "BPEDecoder", "suffix": "</w>"}),
)
DECODERS = (
    st.none()
    | STEPS
    | st.lists(STEPS, min_size=1, max_size=4).map(lambda x: {"type": "Sequence", "decoders": x})
)


@settings(max_examples=250)
@given(DECODERS, st.lists(st.sampled_from(CONTENTS), max_size=7))
def test_decoders_read_tokens_as_the_library_does(decoder, contents):
    reader = reader_of(decoder)
    assume(reader is not None)
    description = {
        "model": {
            "type": "WordLevel",
            "vocab": {content: number for number, content in enumerate(CONTENTS)},
            "unk_token": "x",
        },
        "decoder": decoder,
    }
    library = hf.Tokenizer.from_str(json.dumps(description | {"added_tokens": []}))
    read = b"".join(reader([content.encode() for content in contents]))
    assume(valid(read))
    assert read.decode() == library.decode([CONTENTS.index(content) for content in contents])


@pytest.mark.parametrize(
    "decoder",
    [
        {"type": "Replace", "pattern": {"Regex": "a"}, "content": "b"},
        {"type": "CTC", "pad_token": "x", "word_delimiter_token": "|", "cleanup": True},
        {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Metaspace"}]},
        {"type": "Fuse", "of": "the future"},
    ],
)
def test_what_is_not_known_token_by_token_is_left_to_the_library(decoder):
    assert reader_of(decoder) is None


@given(st.text("ab", max_size=8))
def test_shares_make_up_the_whole_of_any_decoder(letters):
    """Here, one that turns round: more tokens may have less in common with the whole."""
    decode = lambda tokens: "".join(map(chr, reversed(tokens)))  # noqa: E731
    tokens = list(map(ord, letters))
    found = shares(decode, tokens)
    assert len(found) == len(tokens)
    assert b"".join(found).decode() == decode(tokens)


def test_an_unknown_decoder_is_asked_for_whole_texts():
    tokenizer = huggingface(
        "WordLevel",
        pre_tokenizer=hf.pre_tokenizers.WhitespaceSplit(),
        decoder=hf.decoders.CTC(pad_token="the", word_delimiter_token="on"),
    )
    tokens = tokenizer.encode("cat the cat cat on mat")
    spelled = tokenizer.spell([*tokens, tokenizer.vocabulary.mask], mask=b"?")
    assert spelled == [b"cat", b"", b"cat", b"", b" ", b"mat", b"?"]
    assert tokenizer.decode(tokens) == library_decode(tokenizer, tokens) == "catcat mat"
    assert [tokenizer.piece(token) for token in tokens[:2]] == [b"cat", b""]
