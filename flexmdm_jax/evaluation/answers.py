"""The number that an answer ends in, exactly: a fraction, so that nothing is rounded on the way.

Strict reading wants a number where GSM8K has it, flexible reading takes the last one anywhere.
"""

import re
import unicodedata
from fractions import Fraction

# A number that is longer, or has a larger exponent, answers no question; 10^400 still is one.
_LONGEST = 1000
_CURRENCY = r"\\?[$€£¥₹]"

# Signs, slashes, spaces and full-width characters that look like those of ASCII.
_ALIKE = {
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)},
    **dict.fromkeys(map(ord, "−–﹣"), "-"),
    **dict.fromkeys(map(ord, "⁄∕"), "/"),
    **dict.fromkeys(map(ord, "\u00a0\u2007\u2009\u202f"), " "),
}
_FRACTION = re.compile(r"[¼-¾⅐-⅞]|\\[td]?frac\{([0-9]+)\}\{([0-9]+)\}")

# Whole groups: what continues a number does not end one before its last digit.
_VALUE = r"""(?>
    (?: (?P<whole>[0-9]+)[ ](?!0) )? (?P<top>[0-9]+) / (?P<bottom>[0-9]+)
  | (?P<decimal> (?: [0-9]{1,3} (?: ,[0-9]{2,3} )* ,[0-9]{3} (?![0-9])
                   | [0-9]{1,3} (?: [ ][0-9]{3} )+ (?![0-9/])
                   | [0-9]+ )
                 (?: \.[0-9]+ )?
               | \.[0-9]+ )
    (?: [eE] (?P<exponent>[-+]?[0-9]+)
      | [ ]? (?: [×x*] | \\times ) [ ]? 10 \^ \{? (?P<power>[-+]?[0-9]+) \}? )?
  )
  (?! [A-Za-z_]+[0-9] )"""
_FIRST = re.compile(
    rf"(?: [ \t*] | \\boxed\{{ | {_CURRENCY} )*"
    rf" (?P<sign>[-+]?) [ ]? (?:{_CURRENCY})? [ ]? {_VALUE}",
    re.VERBOSE,
)
_ANYWHERE = re.compile(
    rf"(?P<sign> (?: (?<! [0-9A-Za-z_.)\]}}%] ) [-+] )? ) (?:{_CURRENCY})?"
    rf" (?<! [0-9A-Za-z_.] ) {_VALUE}",
    re.VERBOSE,
)
# Behind a first number: another one, or an expression of which it is a part.
_CONTINUED = re.compile(
    rf"[.:][0-9] | ,?[ ]?[0-9] | [ ]? [-+*/^=×÷·x] [ ]? (?:{_CURRENCY})? [0-9(]", re.VERBOSE
)


def strict_number(answer: str) -> Fraction | None:
    """Returns the number that follows the last `####`, or else the last `\\boxed{`; None if none.

    It comes first there, on the same line: `$` and other currencies may stand before it, units and
    any words behind it, which do not change it (18% is 18). An expression (`3 + 4`), a range, a
    time or two numbers side by side are none, and nothing earlier is looked at instead.

    >>> strict_number("48 / 2 is 24. #### $1,200.50 a year")
    Fraction(2401, 2)

    Args:
      answer: Any text. Numbers may be signed, grouped by commas or spaces (1,200), decimal (18.00
        is 18), fractions (3/4, 1 1/2, ½, \\frac{3}{4}) and scientific (1.2e3, 1.2 × 10^3).
    """
    text = _plain(answer)
    _, mark, rest = text.rpartition("####")
    if not mark:
        _, mark, rest = text.rpartition("\\boxed{")
    found = _FIRST.match(rest) if mark else None
    if not found or _CONTINUED.match(rest, found.end()):
        return None
    return _fraction(found)


def flexible_number(answer: str) -> Fraction | None:
    """Returns the last number anywhere in an answer, marked or not; None if there is none.

    As evaluation harnesses do for models that were not trained on the form of the answers. Digits
    that are part of a word, as in H2O, are no number.

    >>> flexible_number("So the answer is 18 dollars.")
    Fraction(18, 1)
    """
    found = list(_ANYWHERE.finditer(_plain(answer)))
    return _fraction(found[-1]) if found else None


def _plain(text: str) -> str:
    """Returns a text in which numbers are spelled in ASCII, and fractions as 3/4."""
    return _FRACTION.sub(_spelled, text).translate(_ALIKE)


def _spelled(found: re.Match) -> str:
    """Returns a fraction of one character, or of LaTeX, apart from digits before it."""
    top, bottom = found.groups()
    fraction = f"{top}/{bottom}" if top else unicodedata.normalize("NFKC", found[0])
    return " " * found.string[: found.start()][-1:].isdecimal() + fraction


def _fraction(found: re.Match) -> Fraction | None:
    """Returns the value of a match, None if it has none or is beyond all measure."""
    if len(found[0]) > _LONGEST:
        return None
    sign = -1 if found["sign"] == "-" else 1
    if found["top"]:
        if not int(found["bottom"]):
            return None
        return sign * (int(found["whole"] or 0) + Fraction(int(found["top"]), int(found["bottom"])))
    exponent = int(found["exponent"] or found["power"] or 0)
    if abs(exponent) > _LONGEST:
        return None
    return sign * Fraction(re.sub("[, ]", "", found["decimal"])) * Fraction(10) ** exponent
