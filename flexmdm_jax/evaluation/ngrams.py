"""How far apart the short passages of two sets of texts are."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

ORDERS = (1, 2, 3, 4)


def ngrams(sequences: Sequence[Sequence[int]], n: int) -> Int[np.ndarray, "m n"]:
    """Returns all passages of n tokens, each as often as it occurs; none reaches across texts."""
    views = (
        np.lib.stride_tricks.sliding_window_view(np.asarray(tokens, np.int64), n)
        for tokens in sequences
        if len(tokens) >= n
    )
    return np.concatenate([np.zeros((0, n), np.int64), *views])


def jensen_shannon(a: Int[np.ndarray, "m n"], b: Int[np.ndarray, "k n"]) -> float:
    """Returns the Jensen-Shannon divergence of two sets of passages, in nats, at most log 2.

    It is that of the empirical distributions, so it is above 0 for two samples of one law too: by
    how much, a control of as many texts shows. NaN if a set is empty.
    """
    if not len(a) or not len(b):
        return float("nan")
    _, kinds = np.unique(np.concatenate([a, b]), axis=0, return_inverse=True)
    kinds = kinds.reshape(-1)
    counts = [np.bincount(part, minlength=kinds.max() + 1) for part in np.split(kinds, [len(a)])]
    p, q = (count / count.sum() for count in counts)
    return (_kl(p, (p + q) / 2) + _kl(q, (p + q) / 2)) / 2


def _kl(p: Float[np.ndarray, "m"], q: Float[np.ndarray, "m"]) -> float:
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())


def ngram_distances(
    texts: Sequence[Sequence[int]], reference: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Returns jensen_shannon() of passages of 1 to 4 tokens, as `ngram_js_2`, in nats."""
    return {f"ngram_js_{n}": jensen_shannon(ngrams(texts, n), ngrams(reference, n)) for n in ORDERS}
