"""Spans as lines of fixed width, for terminals and pictures; no control character gets through."""

import dataclasses
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from flexmdm_jax.generation.trace.spans import Kind, Span

# A mask as a character, by its kind.
MASKS = {Kind.MASK: "▒", Kind.ARRIVED: "█", Kind.AGAIN: "▒", Kind.GONE: "▒"}
_TAB = 4


@dataclasses.dataclass(frozen=True)
class Glyph:
    """One character of a line.

    Attributes:
      text: The character, a printable one.
      width: Columns that it takes up: none if it combines with the one before it, one or two.
      span: What it is of.
      sign: Whether it stands for something that cannot be seen.
      ends_line: Whether the text has a line break here.
    """

    text: str
    width: int
    span: Span
    sign: bool = False
    ends_line: bool = False


def _character_width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def printable(text: str) -> str:
    r"""Returns text with \x1b and the like written out, so that a terminal obeys none of it."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )


def glyphs_of(spans: Iterable[Span]) -> Iterator[Glyph]:
    """Yields what is to be seen of spans: ↵ where a line ends, → before a tab's room."""
    for span in spans:
        if span.kind in MASKS and not span.text:
            yield Glyph(MASKS[span.kind], 1, span)
        for character in span.text:
            # What has gone breaks no lines.
            if character == "\n":
                yield Glyph("↵", 1, span, sign=True, ends_line=span.kind is not Kind.GONE)
            elif character == "\t":
                yield from (Glyph(shown, 1, span, sign=True) for shown in "→".ljust(_TAB))
            else:
                shown, sign = printable(character), not character.isprintable()
                yield from (Glyph(one, _character_width(one), span, sign) for one in shown)


def wrapped(spans: Iterable[Span], columns: int) -> list[list[Glyph]]:
    """Returns the lines of spans, broken behind spaces where that can be.

    Args:
      spans: What is shown.
      columns: Of a line, at least 2, as a wide character needs.
    """
    lines: list[list[Glyph]] = [[]]
    width = 0
    for glyph in glyphs_of(spans):
        while width + glyph.width > columns and lines[-1]:
            line = lines[-1]
            rest = _behind_last_space(line)
            lines[-1] = line[: len(line) - len(rest)]
            lines.append(rest)
            width = sum(one.width for one in rest)
        lines[-1].append(glyph)
        width += glyph.width
        if glyph.ends_line:
            lines.append([])
            width = 0
    return lines


def _behind_last_space(line: Sequence[Glyph]) -> list[Glyph]:
    """Returns the word that a line ends in, unless the line is that word alone."""
    start = len(line)
    while start and line[start - 1].text != " ":
        start -= 1
    return list(line[start:]) if start else []
