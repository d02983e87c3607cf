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
_BLANK_LINES = re.compile(r"\n\s*\n")


def delimited(text: str) -> tuple[list[str], list[str]]:
    """Returns (paragraphs, delimiters) of a document, in linear time.

    With n paragraphs there are n + 1 delimiters, the first before and the last behind all of them:
    joined alternately they are the document. No paragraph is blank or holds a blank line. Blank
    lines and line breaks at the edges are delimiters; a document of space alone is one.
    """
    start, stop = _edges(text)
    if start == stop:
        return [], [text]
    parts, delimiters, position = [], [text[:start]], start
    for match in _DELIMITER.finditer(text, start, stop):
        parts.append(text[position : match.start()])
        delimiters.append(match.group())
        position = match.end()
    return [*parts, text[position:stop]], [*delimiters, text[stop:]]


def paragraphs(text: str) -> list[str]:
    """Returns the paragraphs of a document: what lies between its blank lines."""
    start, stop = _edges(text)
    if start == stop:
        return []
    # The delimiters without the "\r" before them, which are found several times as fast.
    *parts, last = _BLANK_LINES.split(text[start:stop])
    return [*(part.removesuffix("\r") for part in parts), last]


def _edges(text: str) -> tuple[int, int]:
    """Returns where the first paragraph starts and the last one stops; equal if there is none."""
    body = text.rstrip()
    if not body:
        return 0, 0
    # Only whole lines are delimiters: space on the last line of text belongs to the text.
    edge = _BREAK.search(text, len(body))
    stop = edge.start() if edge else len(text)
    lead = text[: len(text) - len(text.lstrip())]
    return lead.rfind("\n") + 1, stop


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
class SplitRule(Protocol):
    """Which texts of a document become sequences, and where long ones are split."""

    name: ClassVar[str]

    def texts(self, document: str) -> list[str]:
        """Returns the texts of a document in order; each decides its split by itself."""
        ...

    def breaks(self, text: str, tokens: np.ndarray, tokenizer: Tokenizer) -> list[int]:
        """Returns the ascending positions in a text's tokens where a split is welcome."""
        ...


@dataclasses.dataclass(frozen=True)
class ByParagraph:
    """A sequence is a paragraph (paper, Appendix F.1).

    The delimiters are no tokens of any sequence, for END stands where they stood. The pieces of a
    paragraph joined are its tokens.
    """

    name: ClassVar[str] = "paragraph"

    def texts(self, document: str) -> list[str]:
        """Returns the paragraphs."""
        return paragraphs(document)

    def breaks(self, text: str, tokens: np.ndarray, tokenizer: Tokenizer) -> list[int]:
        """Returns nothing: a paragraph holds no delimiter."""
        del text, tokens, tokenizer
        return []


@dataclasses.dataclass(frozen=True)
class ByDocument:
    """A sequence is a document; only one that is too long is split, at delimiters if it can be.

    A delimiter stays with the piece before it: the pieces joined are the document's tokens. This
    is what the paper's public code does.
    """

    name: ClassVar[str] = "document"

    def texts(self, document: str) -> list[str]:
        """Returns the document, unless it is blank."""
        return [document] if document.strip() else []

    def breaks(self, text: str, tokens: np.ndarray, tokenizer: Tokenizer) -> list[int]:
        """Returns the positions right behind a delimiter.

        Where a token reaches from the delimiter into the text after it there is none.
        """
        parts, (lead, *delimiters) = delimited(text)
        sizes = [len((x + y).encode()) for x, y in zip(parts, delimiters, strict=True)]
        wanted = len(lead.encode()) + np.cumsum(sizes)
        ends = tokenizer.ends(text, tokens)
        # A tokenizer that leaves out space at the end ends before the text does.
        found = zip(np.searchsorted(ends, wanted).tolist(), wanted.tolist(), strict=True)
        return [at + 1 for at, end in found if at < len(ends) and ends[at] == end]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Texts and their tokens.

    Attributes:
      texts: In order.
      tokens: Of each text, END not yet among them.
      cuts: By number, the (start, stop) of the pieces of those texts that are not one sequence:
        longer ones, and without any piece those that became no token.
    """

    texts: list[str]
    tokens: list[np.ndarray]
    cuts: dict[int, list[tuple[int, int]]]

    def pieces(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (text, tokens of a sequence) in order."""
        for number, (text, tokens) in enumerate(zip(self.texts, self.tokens, strict=True)):
            if number not in self.cuts:  # nearly all
                yield text, tokens
                continue
            for start, stop in self.cuts[number]:
                yield text, tokens[start:stop]


def encode(
    documents: Sequence[str], rule: SplitRule, tokenizer: Tokenizer, maximum: int
) -> Encoded:
    """Returns the texts of documents, encoded, in pieces of at most maximum tokens."""
    texts = [text for document in documents for text in rule.texts(document)]
    encoded = tokenizer.encode_batch(texts)
    if len(encoded) != len(texts):
        raise ValueError(f"{len(encoded)} texts encoded of {len(texts)}")
    cuts = {}
    for number, length in enumerate(map(len, encoded)):
        if not 0 < length <= maximum:
            breaks = rule.breaks(texts[number], encoded[number], tokenizer) if length else []
            cuts[number] = list(cut(length, breaks, maximum))
    return Encoded(texts, encoded, cuts)


SPLIT_RULES: dict[str, SplitRule] = {rule.name: rule for rule in (ByParagraph(), ByDocument())}
