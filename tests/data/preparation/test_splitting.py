"""Splitting: no token lost or invented, nothing too long, cuts where they belong."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexmdm_jax.data.preparation.splitting import SPLIT_RULES, cut, delimited, encode, paragraphs
from flexmdm_jax.data.tokenizers import ByteTokenizer

TEXTS = st.text(alphabet="ab \n\r\tü", max_size=80)
BYTES = ByteTokenizer({})


@given(TEXTS)
def test_paragraphs_and_delimiters_are_the_document(text):
    parts, delimiters = delimited(text)
    pairs = itertools.zip_longest(delimiters, parts, fillvalue="")
    assert "".join(itertools.chain.from_iterable(pairs)) == text
    assert len(delimiters) == len(parts) + 1
    assert not "".join(delimiters).strip()
    assert all(delimiter.count("\n") >= 2 for delimiter in delimiters[1:-1])
    assert paragraphs(text) == parts


@given(TEXTS)
def test_paragraphs_hold_no_blank_line(text):
    for part in paragraphs(text):
        assert all(line.strip() for line in part.split("\n"))


def test_paragraphs_of_a_page():
    page = "\n Title\n\n  First line\nsecond line\n \t\n\n\nLast \n"
    assert paragraphs(page) == [" Title", "  First line\nsecond line", "Last "]
    assert paragraphs("one line ") == ["one line "]
    assert paragraphs(" \n\n ") == paragraphs("") == []


@given(TEXTS)
def test_lines_may_end_as_windows_ends_them(text):
    text = text.replace("\r", "")
    windows = paragraphs(text.replace("\n", "\r\n"))
    assert windows == [part.replace("\n", "\r\n") for part in paragraphs(text)]


def _recursive(start, stop, breaks, maximum):
    """The rule as it is told: split at the delimiter nearest the middle, else in the middle."""
    if stop - start <= maximum:
        return [(start, stop)]
    middle = start + (stop - start) // 2
    inside = [at for at in breaks if start < at < stop]
    at = min(inside, key=lambda at: (abs(at - middle), at), default=middle)
    return _recursive(start, at, breaks, maximum) + _recursive(at, stop, breaks, maximum)


@given(st.integers(1, 200), st.sets(st.integers(1, 199)), st.integers(1, 30))
def test_cuts_follow_the_recursive_rule(length, breaks, maximum):
    breaks = sorted(at for at in breaks if at < length)
    pieces = list(cut(length, breaks, maximum))
    assert pieces == _recursive(0, length, breaks, maximum)
    assert [start for start, _ in pieces] == [0, *(stop for _, stop in pieces[:-1])]
    assert all(1 <= stop - start <= maximum for start, stop in pieces)


@given(st.lists(TEXTS, max_size=4), st.integers(1, 9))
def test_pieces_of_paragraphs_join_to_the_documents_tokens(documents, maximum):
    pieces = list(encode(documents, SPLIT_RULES["paragraph"], BYTES, maximum).pieces())
    joined = [token for _, tokens in pieces for token in tokens.tolist()]
    expected = [part for document in documents for part in paragraphs(document)]
    assert joined == list("".join(expected).encode())
    assert all(1 <= len(tokens) <= maximum for _, tokens in pieces)
    assert [key for key, _ in itertools.groupby(text for text, _ in pieces)] == [
        key for key, _ in itertools.groupby(expected)
    ]


@given(st.lists(TEXTS, max_size=4), st.integers(1, 30))
def test_pieces_of_documents_join_to_the_documents_tokens(documents, maximum):
    pieces = list(encode(documents, SPLIT_RULES["document"], BYTES, maximum).pieces())
    joined = [token for _, tokens in pieces for token in tokens.tolist()]
    assert joined == list("".join(text for text in documents if text.strip()).encode())
    assert all(1 <= len(tokens) <= maximum for _, tokens in pieces)
    whole = [text for text in documents if text.strip() and len(text.encode()) <= maximum]
    assert [text for text, tokens in pieces if len(tokens) == len(text.encode())] == whole


def test_long_documents_are_split_behind_a_delimiter():
    text = "aaa\n\nbbbb\n \ncc\n\nü"
    pieces = [
        bytes(t).decode() for _, t in encode([text], SPLIT_RULES["document"], BYTES, 9).pieces()
    ]
    assert pieces == ["aaa\n\n", "bbbb\n \n", "cc\n\nü"]


class CountingTokenizer(ByteTokenizer):
    def __init__(self):
        super().__init__({})
        self.encoded = 0

    def encode_batch(self, texts):
        self.encoded += sum(map(len, texts))
        return super().encode_batch(texts)


@pytest.mark.parametrize("rule", SPLIT_RULES)
@pytest.mark.parametrize("text", ["a" * 100_000, "a\n\n" * 30_000, "a" + "\n" * 100_000 + "b"])
def test_a_long_document_is_encoded_once(rule, text):
    """A quadratic rule would not end in the time of a test, or encode text again and again."""
    tokenizer = CountingTokenizer()
    pieces = list(encode([text], SPLIT_RULES[rule], tokenizer, 100).pieces())
    assert tokenizer.encoded <= len(text)
    assert max(len(tokens) for _, tokens in pieces) <= 100
    assert sum(np.sum(tokens == ord("a")) for _, tokens in pieces) == text.count("a")
