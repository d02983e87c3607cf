"""What stands beside a model's figures: text, shuffled text, and text of a unigram model."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from flexmdm_jax.data.storage.records import TRAIN, Dataset, read_split
from flexmdm_jax.evaluation.diversity import token_counts

# Texts of the training split that are looked at, from its beginning.
_LOOKED_AT = 100_000
TEXT, SHUFFLED, UNIGRAM = "data", "shuffled", "unigram"


class Controls(NamedTuple):
    """Texts to compare with, and what they were made of.

    Attributes:
      texts: Label -> tokens of texts, without END. `data` are of the training split: how far they
        are from held-out ones is the floor that the number of texts sets. `shuffled` are the same
        with their tokens in any order, `unigram` tokens drawn alone, in texts as long.
      counts: How often each id occurs in the training split, END included.
    """

    texts: dict[str, list[Int[np.ndarray, "_"]]]
    counts: Int[np.ndarray, "v"]


def make_controls(dataset: Dataset, num: int, seed: int) -> Controls:
    """Returns the controls of a dataset.

    Args:
      dataset: Its training split is taken.
      num: Texts of each kind, as many as a model generates: what they are compared by depends on
        it. Fewer if there are fewer.
      seed: Decides which texts, and their order of tokens.
    """
    rng = np.random.default_rng(seed)
    total = min(sum(dataset.lengths[TRAIN].values()), _LOOKED_AT)
    chosen = set(rng.choice(total, min(num, total), replace=False).tolist())
    some = []

    def sequences() -> Iterator[Int[np.ndarray, "_"]]:
        for number, tokens in enumerate(itertools.islice(read_split(dataset, TRAIN), total)):
            if number in chosen:
                some.append(tokens[:-1])
            yield tokens

    counts = token_counts(sequences(), dataset.vocabulary.size)
    content = counts.copy()
    content[dataset.vocabulary.end] = 0
    shares = content / max(content.sum(), 1)
    texts = {
        TEXT: some,
        SHUFFLED: [rng.permutation(tokens) for tokens in some],
        UNIGRAM: [rng.choice(len(shares), len(tokens), p=shares) for tokens in some],
    }
    return Controls(texts, counts)
