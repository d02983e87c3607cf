"""Texts with gaps: parts and what is generated between them make up the whole, to the byte."""

import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizer_kinds import KINDS

from flexmdm_jax.data.tokenizers import ByteTokenizer, SymbolTokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.generation.texts import MASK_MARK, encode_parts, split_text, visible

BYTES = ByteTokenizer({})


def interleaved(one, other):
    """Returns two lists of texts in turns, the second of which may be longer."""
    return "".join(itertools.chain(*itertools.zip_longest(one, other, fillvalue="")))


def finished_row(kind, draw):
    """Returns parts of a request, gaps among them, and a row: tokens, fixed and places of gaps."""
    parts = draw(st.lists(kind.texts.filter(bool), max_size=3))
    starts, ends = draw(st.booleans()) or not parts, draw(st.booleans())
    if parts and not starts:
        parts[0] = kind.opening(parts[0])
    gaps = [*[0] * starts, *range(1, len(parts)), *[len(parts)] * (ends and bool(parts))]
    encoded = encode_parts(kind.tokenizer, parts, starts_with_gap=starts)
    tokens, fixed = [], []
    for place in range(len(parts) + 1):
        new = some_tokens(kind, draw, first=False) if place in gaps else []
        given = encoded[place] if place < len(parts) else []
        tokens += new + given
        fixed += [False] * len(new) + [True] * len(given)
    return parts, gaps, tokens, fixed, [sum(map(len, encoded[:place])) for place in gaps]


def some_tokens(kind, draw, *, first):
    """Returns any tokens, or those of a text."""
    if draw(st.booleans()):
        return kind.tokenizer.encode(draw(kind.texts), first=first)
    return draw(st.lists(st.integers(0, kind.tokenizer.vocabulary.size - 1), max_size=6))


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=25)
@given(data=st.data())
def test_parts_and_generated_texts_in_turns_are_the_whole(name, data):
    kind = KINDS[name]
    parts, gaps, tokens, fixed, places = finished_row(kind, data.draw)
    generated = split_text(kind.tokenizer, tokens, fixed, places)
    assert len(generated) == len(gaps)
    starts = bool(gaps) and gaps[0] == 0
    if kind.drops_space and starts and not generated[0]:
        assume(not parts or not parts[0].startswith(" "))
    turns = (generated, parts) if starts else (parts, generated)
    assert interleaved(*turns) == kind.tokenizer.decode(tokens)


def runs(fixed):
    """Returns numbers of fixed tokens where others are, and the other way round."""
    here = [sum(fixed[:n]) for n in range(len(fixed)) if not fixed[n]]
    return sorted(set(here))


@pytest.mark.parametrize("name", [name for name in KINDS if not KINDS[name].joints])
@settings(max_examples=25)
@given(data=st.data())
def test_a_character_cut_in_two_belongs_where_it_begins(name, data):
    """Given and generated tokens may be parts of one character, as they are in prompts of ids."""
    tokenizer = KINDS[name].tokenizer
    tokens = some_tokens(KINDS[name], data.draw, first=True)
    fixed = data.draw(st.lists(st.booleans(), min_size=len(tokens), max_size=len(tokens)))
    others = [not was for was in fixed]
    generated = split_text(tokenizer, tokens, fixed, runs(fixed))
    # What was given is what would be generated if the other tokens had been given.
    parts = split_text(tokenizer, tokens, others, runs(others))
    turns = (parts, generated) if fixed[:1] == [True] else (generated, parts)
    whole = tokenizer.decode(tokens)
    assert interleaved(*turns) == whole
    spelled = tokenizer.spell(tokens)
    if b"".join(spelled) == whole.encode():
        begins = itertools.accumulate((len(c.encode()) for c in whole), initial=0)
        owners = [was for was, piece in zip(fixed, spelled, strict=True) for _ in piece]
        expected = [c for c, at in zip(whole, begins, strict=False) if not owners[at]]
        assert "".join(generated) == "".join(expected)


@pytest.mark.parametrize(
    ("tokens", "fixed", "gaps", "generated"),
    [
        (b"a\xc3\xa9b", [1, 1, 0, 1], [2], [""]),
        (b"a\xc3\xa9b", [1, 0, 1, 1], [1], ["é"]),
        (b"\xf0\x9f\x99\x82", [0, 1, 0, 1], [0, 1], ["🙂", ""]),
        # No character: each is replaced where it is.
        (b"a\xc3b", [1, 0, 1], [1], ["�"]),
        (b"\xc3\xc3", [1, 0], [1], ["�"]),
        (b"", [], [0], [""]),
        (b"ab", [1, 1], [0, 1, 2], ["", "", ""]),
        # Gaps in one place: a part between them that has no tokens.
        (b"axb", [1, 0, 1], [1, 1], ["x", ""]),
    ],
)
def test_bytes_of_a_character_on_both_sides(tokens, fixed, gaps, generated):
    assert split_text(BYTES, list(tokens), list(map(bool, fixed)), gaps) == generated


@pytest.mark.parametrize("gaps", [[], [0], [2], [0, 2]])
def test_a_token_where_no_gap_is_is_refused(gaps):
    with pytest.raises(ValueError, match=r"behind 1 given ones"):
        split_text(BYTES, list(b"axb"), [True, False, True], gaps)


def test_spaces_between_words_are_generated_with_them():
    tokenizer = SymbolTokenizer.of("abcd")
    tokens = tokenizer.encode("a b c d")
    split = lambda fixed, gaps: split_text(tokenizer, tokens, [bool(x) for x in fixed], gaps)  # noqa: E731
    assert split([1, 0, 1, 1], [1]) == [" b "]
    assert split([0, 1, 1, 0], [0, 2]) == ["a ", " d"]
    assert split([1, 1, 1, 1], [0, 2, 4]) == ["", " ", ""]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["a", "x y"], r"^part 2, 'x y': the tokenizer cannot encode this text \('x' is no symbol"),
        (["a\ud800"], r"^part 1, 'a\\ud800': the tokenizer cannot encode .* half of a surrogate"),
        (["b", "a " * 50 + "\n?"], r"^part 2, 'a a [a ]*': .*'\?' is no symbol"),
    ],
)
def test_a_part_that_cannot_be_encoded_is_named(parts, message):
    with pytest.raises(UserError, match=message) as error:
        encode_parts(SymbolTokenizer.of("ab"), parts, starts_with_gap=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", KINDS)
def test_half_a_character_is_refused_by_all(name):
    with pytest.raises(UserError, match=r"^part 1, '\\udc00the': "):
        encode_parts(KINDS[name].tokenizer, ["\udc00the"], starts_with_gap=True)


@pytest.mark.parametrize("name", KINDS)
def test_an_unfinished_row_shows_its_masks(name):
    kind = KINDS[name]
    encode, mask = kind.tokenizer.encode, [kind.tokenizer.vocabulary.mask]
    middle = [*encode("the"), *mask, *mask, *encode(" cat", first=False)]
    begin = [*mask, *encode(" cat", first=False), *mask]
    expected = ["the░░ cat", "░ cat░"]
    if kind.joints:
        expected = ["the ░ ░ cat", "░ cat ░"]
    if name == "hf suffixes":  # A mask has none, so what is behind it may belong to its word.
        expected = ["the ░░cat", "░cat ░"]
    opened = kind.opening("the")[: -len("the")]
    assert [visible(kind.tokenizer, tokens) for tokens in (middle, begin)] == [
        opened + expected[0],
        expected[1],
    ]
    assert visible(kind.tokenizer, []) == ""


@settings(max_examples=100)
@given(st.lists(st.sampled_from([*"aé🙂�".encode(), 256, 257]), max_size=12))
def test_bytes_of_unfinished_characters_are_shown_as_masks(tokens):
    shown = visible(BYTES, tokens)
    pieces = bytes(token if token < 256 else 0 for token in tokens if token != 257).split(b"\0")
    unknown = lambda piece: MASK_MARK * (len(piece) - len(piece.decode(errors="ignore").encode()))  # noqa: E731
    texts = [piece.decode(errors="ignore") for piece in pieces]
    hidden = sum(len(unknown(piece)) for piece in pieces) + len(pieces) - 1
    assert shown.count(MASK_MARK) == hidden
    assert shown.replace(MASK_MARK, "") == "".join(texts)


def test_a_character_appears_when_its_last_byte_does():
    states = [[256, 256], [0xC3, 256], [0xC3, 0xA9]]
    assert [visible(BYTES, state) for state in states] == ["░░", "░░", "é"]
