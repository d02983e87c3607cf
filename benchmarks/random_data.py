"""Datasets of random tokens whose sequences are as long as a law says."""

import pathlib

import numpy as np

from flexmdm_jax.data.storage.records import TRAIN, VALIDATION, Dataset, write_dataset
from flexmdm_jax.data.tokenizers.symbols import SymbolTokenizer


def random_dataset(
    folder: pathlib.Path, lengths: np.ndarray, *, vocabulary: int, max_length: int, count: int
) -> Dataset:
    """Returns a new dataset of random tokens.

    Args:
      folder: Where to write it.
      lengths: Slots of sequences, END included, to draw from; those that are longer are cut.
      vocabulary: Token ids, MASK and END among them.
      max_length: Slots of the longest sequence, END included.
      count: Sequences, of which the first alone is held out.
    """
    rng = np.random.default_rng(0)
    # MASK and END are two more.
    tokenizer = SymbolTokenizer.of(map(str, range(vocabulary - 2)))
    drawn = rng.choice(np.minimum(lengths, max_length), count) - 1
    tokens = (rng.integers(0, vocabulary - 2, max(size, 1)) for size in drawn)
    splits = (VALIDATION if number == 0 else TRAIN for number in range(count))
    sequences = zip(splits, tokens, strict=True)
    return write_dataset(folder, sequences, tokenizer, max_length=max_length, origin={})
