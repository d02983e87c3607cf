"""The likelihood of a unigram model, which any other has to beat."""

from collections.abc import Iterable

import numpy as np

from flexmdm_jax.generation.scoring import Score


def unigram_score(train_counts: np.ndarray, sequences: Iterable[np.ndarray], end: int) -> Score:
    """Returns the exact score of a unigram model, END being one of its symbols.

    Args:
      train_counts: How often each id occurs in the training split, END included; one is added to
        each.
      sequences: Held-out sequences, each ending in END.
      end: Id of END.
    """
    cost = -np.log((train_counts + 1) / (train_counts + 1).sum())
    sequences = list(sequences)
    return Score(
        nats=np.array([cost[tokens].sum() for tokens in sequences]),
        errors=np.zeros(len(sequences)),
        tokens=np.array([np.sum(tokens != end) for tokens in sequences]),
    )
