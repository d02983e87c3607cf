"""Templates: texts with marks where something is to be generated."""

import re
from typing import NamedTuple

from flexmdm_jax.errors import UserError

MARK = "<gap>"


class Template(NamedTuple):
    """Texts and the gaps between them.

    Attributes:
      parts: The texts, none of them empty.
      gaps: How many of the parts are before each gap, ascending: 0 is a gap at the beginning,
        len(parts) one at the end. There is one between any two parts.
    """

    parts: tuple[str, ...]
    gaps: tuple[int, ...]


def parse_template(text: str, mark: str = MARK) -> Template:
    r"""Returns what a template says.

    >>> parse_template("def f(x):\n<gap>\n  return y")
    Template(parts=('def f(x):\n', '\n  return y'), gaps=(1,))

    A backslash before a mark makes it text: `\<gap>` is `<gap>`, and a backslash before a gap is
    written twice, `\\<gap>`. Anywhere else a backslash is a backslash. Where a text has many such
    marks, take another one.

    What looks like a mark but is none is refused: other letter case (`<GAP>`), numbers (`<gap1>`,
    `<gap:5>`; a gap has no length), `</gap>`. It is text behind a backslash, and behind a letter if
    its case differs, as in `Vec<Gap>`.

    Args:
      text: Texts and marks, at most one between two texts.
      mark: What stands for a gap.

    Raises:
      UserError: If there is no mark, two stand side by side, one is misspelt, or a mark cannot
        be what it is to be: blank, or with a backslash in it.
    """
    if not mark.strip() or "\\" in mark:
        raise UserError(f"mark = {mark!r}; a mark is some characters, none of them a backslash")
    parts, gaps, literal, taken, end = [], [], [], "", 0
    # Each backslash is looked at once, however many there are: possessive, and from the first.
    slashed = rf"(?<!\\)(\\*+)(?:({re.escape(mark)})|({_similar_to(mark)}))"
    for match in re.finditer(slashed, text):
        slashes, exact, similar = match.groups()
        literal += [text[end : match.start()], "\\" * (len(slashes) // 2)]
        end = match.end()
        if len(slashes) % 2 or (similar and _is_argument(match, mark)):
            literal.append(exact or similar)
            taken = taken or f" ({exact or similar!r} is text there)"
            continue
        if similar:
            raise UserError(
                f"{_place(match)}: {similar!r} is no mark; write {mark} for a gap, or \\{similar} "
                "for that text itself"
            )
        if any(literal):
            parts.append("".join(literal))
            literal = []
        if gaps and gaps[-1] == len(parts):
            raise UserError(f"{_place(match)}: two {mark} side by side; one is a gap of any length")
        gaps.append(len(parts))
    if not gaps:
        raise UserError(
            f"the template has no {mark}{taken}; write it where text is to be generated"
        )
    rest = "".join(literal) + text[end:]
    return Template((*parts, rest) if rest else tuple(parts), tuple(gaps))


def _place(match: re.Match) -> str:
    line = match.string.count("\n", 0, match.start()) + 1
    return f"line {line} of the template"


def _similar_to(mark: str) -> str:
    """Returns a pattern of what looks like a mark, where that is a name in brackets."""
    named = re.fullmatch(r"(\W+)(\w+)(\W+)", mark)
    if not named:
        return "(?!)"
    opening, name, closing = map(re.escape, named.groups())
    slash = r" *+(?:/ *+)?"
    more = rf"[-_]?\d+| *+[:=,] *+[^\s{opening}{closing}]*+| ++\w+"
    return rf"{opening}{slash}(?i:{name})(?:{more})?{slash}{closing}"


def _is_argument(match: re.Match, mark: str) -> bool:
    """Returns whether something is a type's argument, as in Vec<Gap>, rather than a mark."""
    name = re.sub(r"\W", "", mark)
    place = match.start(3)
    before = match.string[max(place - 1, 0) : place]
    return bool(re.fullmatch(r"\w", before)) and name not in match[3]
