"""MAUVE: how far apart two sets of texts are, in the features of a language model.

Pillutla et al., 2021: features are put into clusters, and the curve of both Kullback-Leibler
divergences to mixtures of the two histograms is summed up by the area under it. Counts get half a
text more in each cluster (Pillutla et al., 2023, call that MAUVE with Krichevsky-Trofimov
smoothing): without it, an empty cluster would count as impossible.
"""

import warnings

import numpy as np
import scipy.cluster.vq
from jaxtyping import Float, Int

from flexmdm_jax.evaluation.bootstrap import with_error

# The paper's constants: the scale of divergences, explained variance, texts to a cluster.
_SCALE, _VARIANCE, _TEXTS_TO_A_CLUSTER = 5.0, 0.9, 10
_MIXTURES = np.linspace(1e-6, 1 - 1e-6, 100)


def mauve(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"], *, seed: int = 0
) -> dict[str, float]:
    """Returns `mauve`, 1 for equal histograms and near 0 for disjoint ones, with its error.

    Values depend on the reference and on the numbers of texts, so compare sets of one size under
    one reference. Clusters stay as they are when errors are found.

    Args:
      a: Features of texts; fewer than two give NaN. The error is that of drawing other ones.
      b: Features of the texts to compare with.
      seed: Decides the clusters' beginnings and the draws.
    """
    if min(len(a), len(b)) < 2:
        return {"mauve": float("nan"), "mauve_error": float("nan")}
    number = max(2, min(len(a), len(b)) // _TEXTS_TO_A_CLUSTER)
    clusters = _clusters(np.concatenate([a, b]).astype(float), number, seed)
    size = clusters.max() + 1
    p, q = clusters[: len(a)], clusters[len(a) :]

    def law(x, weights=None):
        counts = np.bincount(x, weights, size) + 0.5
        return counts / counts.sum()

    other = law(q)
    return with_error("mauve", lambda counts: area(law(p, counts), other), len(a), seed=seed)


def area(p: Float[np.ndarray, "k"], q: Float[np.ndarray, "k"]) -> float:
    """Returns the area under the divergence curve of two histograms without empty bins."""
    mixtures = _MIXTURES[:, None] * p + (1 - _MIXTURES[:, None]) * q
    x, y = (np.exp(-_SCALE * _kl(law, mixtures)) for law in (q, p))
    # The curve begins and ends on the axes.
    x, y = np.array([1.0, *x, 0.0]), np.array([0.0, *y, 1.0])
    return float(abs(np.trapezoid(y, x)))


def _kl(law: Float[np.ndarray, "k"], mixtures: Float[np.ndarray, "m k"]) -> Float[np.ndarray, "m"]:
    return (law * np.log(law / mixtures)).sum(-1)


def _clusters(features: Float[np.ndarray, "n d"], number: int, seed: int) -> Int[np.ndarray, "n"]:
    """Returns the cluster of each row, made of unit length and cut to the main directions."""
    features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    centred = features - features.mean(0)
    left, scales, _ = np.linalg.svd(centred, full_matrices=False)
    variance = np.cumsum(scales**2) / max((scales**2).sum(), 1e-30)
    kept = int(np.searchsorted(variance, _VARIANCE)) + 1
    points = (left * scales)[:, :kept]
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings():
        # An empty cluster is none that counts.
        warnings.simplefilter("ignore")
        trials = [
            scipy.cluster.vq.kmeans2(points, number, iter=50, minit="++", rng=rng) for _ in range(5)
        ]
    _, clusters = min(trials, key=lambda x: ((points - x[0][x[1]]) ** 2).sum())
    return np.unique(clusters, return_inverse=True)[1].reshape(-1)
