"""How varied texts are: it shows in a model that repeats itself, or one text."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int

from flexmdm_jax.evaluation.ngrams import Tokens, ngrams


def token_counts(sequences: Iterable[Tokens], size: int) -> Int[np.ndarray, "v"]:
    """Returns how often each token id occurs."""
    counts = np.zeros(size, int)
    for tokens in sequences:
        counts += np.bincount(np.asarray(tokens, int), minlength=size)
    return counts


def entropy_of_counts(counts: Int[np.ndarray, "v"]) -> float:
    """Returns the entropy of the empirical distribution, in nats."""
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log(shares)).sum())


def sample_entropies(texts: Sequence[Tokens]) -> Float[np.ndarray, "n"]:
    """Returns the entropy of each text's own tokens, in nats; NaN for an empty one.

    Low entropy is how a text gets a low perplexity without being good: the same few tokens again
    and again (Zheng et al., 2024, section 5).
    """
    return np.array(
        [
            entropy_of_counts(np.unique(tokens, return_counts=True)[1]) if len(tokens) else np.nan
            for tokens in texts
        ]
    )


def distinct(texts: Sequence[Tokens], n: int) -> float:
    """Returns the share of different ones among all passages of n tokens (Li et al., 2016).

    It falls with the number of tokens: compare as many texts of the same lengths. NaN without any.
    """
    passages = ngrams(texts, n)
    return len(np.unique(passages, axis=0)) / len(passages) if len(passages) else float("nan")
