"""How a document becomes sequences: at blank lines, or whole, and never longer than the maximum."""

import bisect
import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from flexmdm_jax.data.tokenizers import Tokenizer

# A line break, blank lines, a line break: the "\n\n" of the paper, however blank the lines are.
# Lines may end in "\r\n", as Windows writes them.
_BREAK = re.compile(r"\r?\n")
_DELIMITER = re.compile(r"\r?\n\s*\n")


def delimited(text: str) -> tuple[list[str], list[str]]:
    """Returns (paragraphs, delimiters) of a document, in linear time.

    With n paragraphs there are n + 1 delimiters, the first before and the last behind all of them:
    joined alternately they are the document. No paragraph is blank or holds a blank line. Blank
    lines and line breaks at the edges are delimiters; a document of space alone is one.
    """
    body = text.rstrip()
    if not body:
        return [], [text]
    # Only whole lines are delimiters: space on the last line of text belongs to the text.
    edge = _BREAK.search(text, len(body))
    stop = edge.start() if edge else len(text)
    lead = text[: len(text) - len(text.lstrip())]
    start = lead.rfind("\n") + 1
    parts, delimiters, position = [], [text[:start]], start
    for match in _DELIMITER.finditer(text, start, stop):
        parts.append(text[position : match.start()])
        delimiters.append(match.group())
        position = match.end()
    return [*parts, text[position:stop]], [*delimiters, text[stop:]]


def paragraphs(text: str) -> list[str]:
    """Returns the paragraphs of a document: what lies between its blank lines."""
    return delimited(text)[0]


def cut(length: int, breaks: Sequence[int], maximum: int) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) of pieces that cover 0..length in order, none longer than maximum.

    A piece that is too long is split at the break nearest its middle (of two, the earlier), or in
    the middle if it holds no break; and so on. Time is linear in length up to a logarithm of the
    number of breaks.

    Args:
      length: Tokens.
      breaks: Ascending positions where a split is welcome.
      maximum: Tokens of a piece, at least 1.
    """
    stack = [(0, length)] if length else []
    while stack:
        start, stop = stack.pop()
        if stop - start <= maximum:
            yield start, stop
            continue
        middle = start + (stop - start) // 2
        right = bisect.bisect_left(breaks, middle)
        near = [at for at in breaks[max(right - 1, 0) : right + 1] if start < at < stop]
        at = min(near, key=lambda at: abs(at - middle), default=middle)
        stack += [(at, stop), (start, at)]


@runtime_checkable
class Split(Protocol):
    """A rule: documents to (text that decides the split into train and validation, tokens)."""

    name: ClassVar[str]

    def pieces(
        self, documents: Sequence[str], tokenizer: Tokenizer, maximum: int
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (text, tokens) of the pieces of documents in order, END not yet among them."""
        ...


@dataclasses.dataclass(frozen=True)
class ByParagraph:
    """A sequence is a paragraph (paper, Appendix F.1).

    The delimiters are no tokens of any sequence, for END stands where they stood. The pieces of a
    paragraph joined are its tokens.
    """

    name: ClassVar[str] = "paragraph"

    def pieces(
        self, documents: Sequence[str], tokenizer: Tokenizer, maximum: int
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (paragraph, tokens) of the pieces of documents in order."""
        texts = [paragraph for document in documents for paragraph in paragraphs(document)]
        for text, tokens in zip(texts, tokenizer.encode_batch(texts), strict=True):
            if len(tokens) <= maximum:  # nearly all: one comparison instead of a generator
                if len(tokens):
                    yield text, tokens
                continue
            for start, stop in cut(len(tokens), (), maximum):
                yield text, tokens[start:stop]


@dataclasses.dataclass(frozen=True)
class ByDocument:
    """A sequence is a document; only one that is too long is split, at delimiters if it can be.

    A delimiter stays with the piece before it: the pieces joined are the document's tokens. This
    is what the paper's public code does.
    """

    name: ClassVar[str] = "document"

    def pieces(
        self, documents: Sequence[str], tokenizer: Tokenizer, maximum: int
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (document, tokens) of the pieces of documents in order."""
        texts = [document for document in documents if document.strip()]
        for text, tokens in zip(texts, tokenizer.encode_batch(texts), strict=True):
            breaks = _breaks(text, tokens, tokenizer) if len(tokens) > maximum else []
            for start, stop in cut(len(tokens), breaks, maximum):
                yield text, tokens[start:stop]


def _breaks(text: str, tokens: np.ndarray, tokenizer: Tokenizer) -> list[int]:
    """Returns the positions in tokens right behind a delimiter.

    Where a token reaches from the delimiter into the text after it there is none.
    """
    ends = tokenizer.ends(text, tokens)
    wanted, size = [], 0
    for paragraph, delimiter in zip(*_interleaved(text), strict=True):
        size += len(paragraph.encode()) + len(delimiter.encode())
        wanted.append(size)
    found = np.searchsorted(ends, wanted)
    exact = [at for at, end in zip(found, wanted, strict=True) if ends[at] == end]
    return [int(at) + 1 for at in exact]


def _interleaved(text: str) -> tuple[list[str], list[str]]:
    """Returns paragraphs, the first with what leads up to it, and the delimiter behind each."""
    parts, (lead, *delimiters) = delimited(text)
    return [lead + parts[0], *parts[1:]], delimiters


SPLITS: dict[str, Split] = {rule.name: rule for rule in (ByParagraph(), ByDocument())}
