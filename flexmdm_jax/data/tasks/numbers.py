"""The demo's task: whole numbers in English words, a language that is learned in minutes.

Its law is known exactly, and a rule says whether a text is right: number_of() reads numbers, by a
grammar of its own that knows nothing of how spell() writes them.
"""

import dataclasses
import math
import pathlib
from typing import Annotated

import numpy as np
from jaxtyping import Float

from flexmdm_jax.data.storage.records import TRAIN, VALIDATION, Dataset, write_dataset
from flexmdm_jax.data.tokenizers import SymbolTokenizer
from flexmdm_jax.ranges import ProperShare, Range, Ranged, Seed, TwoOrMore

_UNITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = (f"{stem}teen" for stem in ("thir", "four", "fif", "six", "seven", "eigh", "nine"))
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# The words of 1 to 99.
BELOW_HUNDRED = (
    *(*_UNITS, "ten", "eleven", "twelve", *_TEENS),
    *(f"{tens}{unit}" for tens in _TENS for unit in ("", *(f"-{word}" for word in _UNITS))),
)
HUNDRED, AND = "hundred", "and"
# What stands behind each group of three digits, from the left.
SCALES = {"million": 1_000_000, "thousand": 1_000}
SYMBOLS = (*BELOW_HUNDRED, HUNDRED, AND, *SCALES)
MOST_DIGITS = 9


@dataclasses.dataclass(frozen=True)
class NumbersConfig(Ranged):
    """Numbers in words: how many digits, each number of them as likely, then which number.

    Attributes:
      num_sequences: Numbers to draw.
      max_digits: Of the longest numbers; none is 0.
      validation_fraction: Share of numbers that are held out.
      seed: Decides them.
    """

    num_sequences: TwoOrMore = 20_000
    max_digits: Annotated[int, Range(1, MOST_DIGITS)] = MOST_DIGITS
    validation_fraction: ProperShare = 0.05
    seed: Seed = 0

    def write(self, directory: pathlib.Path) -> Dataset:
        """Returns the dataset after writing it.

        Raises:
          UserError: If a split stays empty, or the directory holds files already.
        """
        law = NumbersLaw(self.max_digits)
        rng = np.random.default_rng(self.seed)
        numbers = law.draw(self.num_sequences, rng)
        held_out = rng.random(self.num_sequences) < self.validation_fraction
        tokenizer = SymbolTokenizer.of(SYMBOLS)
        return write_dataset(
            directory,
            (
                (VALIDATION if out else TRAIN, tokenizer.encode(spell(number)))
                for out, number in zip(held_out, numbers, strict=True)
            ),
            tokenizer,
            max_length=len(law.lengths()),
            origin={"source": "numbers", **dataclasses.asdict(self)},
            task={"kind": "numbers", "max_digits": self.max_digits},
        )


@dataclasses.dataclass(frozen=True)
class NumbersLaw:
    """The law of the numbers.

    Attributes:
      max_digits: Of the longest; 1, 2, … of them are equally likely.
    """

    max_digits: int

    def draw(self, num: int, rng: np.random.Generator) -> list[int]:
        """Returns numbers of the law."""
        lowest = 10 ** (rng.integers(1, self.max_digits + 1, num) - 1)
        return rng.integers(lowest, 10 * lowest).tolist()

    def surprise(self, number: int) -> float:
        """Returns -log p of a number the law has, in nats."""
        return math.log(self.max_digits) + math.log(9) + (len(str(number)) - 1) * math.log(10)

    def entropy(self) -> float:
        """Returns the entropy of the law in nats per number."""
        each = [self.surprise(10 ** (digits - 1)) for digits in range(1, self.max_digits + 1)]
        return sum(each) / self.max_digits

    def lengths(self) -> Float[np.ndarray, "l"]:
        """Returns the probability of each length in words, 0 to the longest: counted, not drawn.

        A number's words are those of its groups of three digits, which are independent but for the
        first, so their lengths convolve.
        """
        counts = [_lengths_of_digits(digits) for digits in range(1, self.max_digits + 1)]
        law = np.zeros(max(map(len, counts)))
        for count in counts:
            law[: len(count)] += count / count.sum() / self.max_digits
        return law


def spell(number: int) -> str:
    """Returns a number in words.

    `742309` is "seven hundred and forty-two thousand three hundred and nine", and `1000007` is
    "one million and seven".

    Args:
      number: At least 1 and of at most MOST_DIGITS digits.
    """
    words = []
    for scale, size in SCALES.items():
        if group := number // size % 1000:
            words += [*_spell_group(group), scale]
    return " ".join(words + _spell_group(number % 1000, follows=bool(words)))


def _spell_group(group: int, *, follows: bool = False) -> list[str]:
    """Returns the words of three digits; follows says whether larger ones stand before them."""
    hundreds, rest = divmod(group, 100)
    words = [BELOW_HUNDRED[hundreds - 1], HUNDRED] if hundreds else []
    if rest and (hundreds or follows):
        words.append(AND)
    return words + ([BELOW_HUNDRED[rest - 1]] if rest else [])


def _lengths_of_digits(digits: int) -> Float[np.ndarray, "l"]:
    """Returns how many numbers of so many digits have each length in words."""
    groups = -(-digits // 3)
    leading = range(10 ** ((digits - 1) % 3), 10 ** ((digits - 1) % 3 + 1))
    counts = _lengths_of_groups(leading, scaled=groups > 1)
    for left in reversed(range(groups - 1)):
        group = _lengths_of_groups(range(1000), scaled=left > 0, follows=left == 0)
        counts = np.convolve(counts, group)
    return counts


def _lengths_of_groups(
    values: range, *, scaled: bool, follows: bool = False
) -> Float[np.ndarray, "l"]:
    """Returns how many of the values of a group have each length in words, with their scale's."""
    lengths = [
        len(_spell_group(value, follows=follows)) + (scaled and value > 0) for value in values
    ]
    return np.bincount(lengths).astype(float)


def number_of(text: str) -> int | None:
    """Returns the number that a text spells, or None if it spells none as it should be written.

    "seven hundred and forty-two" is 742; "seven hundred forty-two", "one thousand seven", "seven
    and hundred" and the empty text are none.
    """
    words, total = text.split(), 0
    for scale, size in SCALES.items():
        if scale in words:
            place = words.index(scale)
            group = _read_group(words[:place])
            if group is None:
                return None
            total, words = total + group * size, words[place + 1 :]
    if not words:
        return total or None
    # Behind larger groups, a number below a hundred is joined to them.
    joined = total > 0 and words[0] == AND
    last = _read_group(words[joined:])
    if last is None or (total > 0 and joined != (last < 100)):
        return None
    return total + last


_VALUES = {word: value for value, word in enumerate(BELOW_HUNDRED, start=1)}
_DIGITS = {word: _VALUES[word] for word in _UNITS}


def _read_group(words: list[str]) -> int | None:
    """Returns the number that three digits stand for, or None."""
    match words:
        case [small] if small in _VALUES:
            return _VALUES[small]
        case [digit, "hundred"] if digit in _DIGITS:
            return 100 * _DIGITS[digit]
        case [digit, "hundred", "and", small] if digit in _DIGITS and small in _VALUES:
            return 100 * _DIGITS[digit] + _VALUES[small]
    return None
