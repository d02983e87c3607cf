"""How far apart the short passages of two sets of texts are."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from flexmdm_jax.evaluation.bootstrap import with_error

ORDERS = (1, 2, 3, 4)
# The tokens of a text.
Tokens = Sequence[int] | Int[np.ndarray, "_"]


def ngrams(sequences: Sequence[Tokens], n: int) -> Int[np.ndarray, "m n"]:
    """Returns all passages of n tokens, each as often as it occurs; none reaches across texts."""
    views = (
        np.lib.stride_tricks.sliding_window_view(np.asarray(tokens, np.int64), n)
        for tokens in sequences
        if len(tokens) >= n
    )
    return np.concatenate([np.zeros((0, n), np.int64), *views])


def jensen_shannon(p: Float[np.ndarray, "k"], q: Float[np.ndarray, "k"]) -> float:
    """Returns the Jensen-Shannon divergence of two laws, in nats, at most log 2."""
    return (_kl(p, (p + q) / 2) + _kl(q, (p + q) / 2)) / 2


def _kl(p: Float[np.ndarray, "k"], q: Float[np.ndarray, "k"]) -> float:
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())


def ngram_distances(
    texts: Sequence[Tokens], reference: Sequence[Tokens], *, seed: int = 0
) -> dict[str, float]:
    """Returns the divergence of passages of n = 1 to 4 tokens as `ngram_js_n`, with its error.

    It is that of the empirical distributions, in nats, so it is above 0 for two samples of one law
    too: by how much, a control of as many texts shows. NaN if there is no passage of n tokens.

    Args:
      texts: Their tokens; the error is that of drawing other ones.
      reference: The texts to compare with.
      seed: Decides the draws behind the errors.
    """
    return {
        key: value for n in ORDERS for key, value in _distance(texts, reference, n, seed).items()
    }


def _distance(texts, reference, n: int, seed: int) -> dict[str, float]:
    passages, others = ngrams(texts, n), ngrams(reference, n)
    _, kinds = np.unique(np.concatenate([passages, others]), axis=0, return_inverse=True)
    kinds, num_kinds = kinds.reshape(-1), int(kinds.max(initial=-1)) + 1
    own, theirs = np.split(kinds, [len(passages)])
    law = functools.partial(_law, minlength=num_kinds)
    q = law(theirs)
    owner = np.repeat(np.arange(len(texts)), [max(len(tokens) - n + 1, 0) for tokens in texts])

    def statistic(counts) -> float:
        p = law(own, counts[owner])
        return jensen_shannon(p, q) if len(q) and p.any() and q.any() else float("nan")

    return with_error(f"ngram_js_{n}", statistic, len(texts), seed=seed)


def _law(kinds, weights=None, *, minlength: int) -> Float[np.ndarray, "k"]:
    counts = np.bincount(kinds, weights, minlength).astype(float)
    return counts / max(counts.sum(), 1)
