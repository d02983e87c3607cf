"""The length task: balanced brackets whose lengths follow a law that is known exactly."""

import dataclasses
import math
import pathlib

import numpy as np
from jaxtyping import Int

from flexmdm_jax.data.storage.records import TRAIN, VALIDATION, Dataset, write_dataset
from flexmdm_jax.data.tokenizers import SymbolTokenizer
from flexmdm_jax.ranges import ProperShare, Ranged, Seed, TwoOrMore

# Probability of each length, in brackets.
LENGTH_LAW = {4: 0.1, 16: 0.4, 32: 0.4, 64: 0.1}
SYMBOLS = ("(", ")")
OPENING, CLOSING = 0, 1


@dataclasses.dataclass(frozen=True)
class BracketsConfig(Ranged):
    """Balanced strings: a length from LENGTH_LAW, then all strings of it equally likely.

    Attributes:
      num_sequences: Strings to draw.
      validation_fraction: Share of strings that are held out.
      seed: Decides them.
    """

    num_sequences: TwoOrMore = 20_000
    validation_fraction: ProperShare = 0.05
    seed: Seed = 0

    def write(self, directory: pathlib.Path) -> Dataset:
        """Returns the dataset after writing it.

        Raises:
          UserError: If a split stays empty, or the directory holds files already.
        """
        rng = np.random.default_rng(self.seed)
        lengths = rng.choice(list(LENGTH_LAW), self.num_sequences, p=list(LENGTH_LAW.values()))
        held_out = rng.random(self.num_sequences) < self.validation_fraction
        strings = (draw_brackets(int(length), 1, rng)[0].tolist() for length in lengths)
        return write_dataset(
            directory,
            (
                (VALIDATION if out else TRAIN, string)
                for out, string in zip(held_out, strings, strict=True)
            ),
            SymbolTokenizer.of(SYMBOLS),
            max_length=max(LENGTH_LAW) + 1,
            origin={"source": "brackets", **dataclasses.asdict(self)},
            task={"kind": "brackets"},
        )


def draw_brackets(length: int, num: int, rng: np.random.Generator) -> Int[np.ndarray, "n l"]:
    """Returns balanced strings of one length, each equally likely.

    A shuffled row of length/2 opening and length/2 + 1 closing brackets has exactly one rotation
    that is balanced up to its last bracket: the one that begins after the lowest point first
    reached (the cycle lemma, Dvoretzky and Motzkin, 1947).

    Args:
      length: Brackets to a string; even.
      num: Strings.
      rng: Decides them.
    """
    row = np.full(length + 1, -1)
    row[: length // 2] = 1
    rows = rng.permuted(np.tile(row, (num, 1)), axis=1)
    lowest = np.argmin(np.cumsum(rows, axis=1), axis=1)
    slots = (lowest[:, None] + 1 + np.arange(length)[None, :]) % (length + 1)
    heights = np.take_along_axis(rows, slots, axis=1)
    return np.where(heights > 0, OPENING, CLOSING)


def is_balanced(tokens: Int[np.ndarray, "l"]) -> bool:
    """Returns whether a string holds brackets alone, one at least, each closed by a later one."""
    if not len(tokens) or not np.isin(tokens, (OPENING, CLOSING)).all():
        return False
    heights = np.cumsum(np.where(tokens == OPENING, 1, -1))
    return bool(heights.min() >= 0 and heights[-1] == 0)


def entropy() -> float:
    """Returns the entropy of the law in nats per string, of lengths and strings together."""
    return sum(share * surprise(length) for length, share in LENGTH_LAW.items())


def surprise(length: int) -> float:
    """Returns -log p of each balanced string of a length the law has, in nats."""
    return math.log(_catalan(length // 2)) - math.log(LENGTH_LAW[length])


def _catalan(pairs: int) -> int:
    return math.comb(2 * pairs, pairs) // (pairs + 1)
