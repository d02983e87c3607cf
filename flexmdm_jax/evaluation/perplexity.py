"""Likelihood bounds over a set of sequences, and the unigram model they have to beat."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import flax.struct
import jax
import numpy as np

from flexmdm_jax.losses import nll_bound
from flexmdm_jax.process import Process
from flexmdm_jax.types import Batch, Denoiser, RowKeys, fold_in_rows


@flax.struct.dataclass
class Score:
    """Negative log-likelihood of a set of sequences.

    Attributes:
      nats: Per sequence, each its own estimate.
      tokens: Tokens of each sequence that are not given, END not counted.
    """

    nats: np.ndarray
    tokens: np.ndarray

    def summary(self) -> dict[str, float]:
        """Returns nats per sequence and per token with its standard error, and perplexity."""
        per_token = self.nats.sum() / self.tokens.sum()
        # Standard error of a ratio of sums (delta method).
        residual = self.nats - per_token * self.tokens
        error = residual.std(ddof=1) / math.sqrt(len(residual)) / self.tokens.mean()
        return {
            "nats_per_sequence": float(self.nats.mean()),
            "nats_per_token": float(per_token),
            "nats_per_token_error": float(error),
            "perplexity": float(np.exp(per_token)),
        }


def make_scorer(
    denoiser_of: Callable[[Any], Denoiser],
    process: Process,
    num_times: int,
    num_groups: int = 1,
) -> Callable[[Any, Batch, RowKeys], jax.Array]:
    """Returns the jitted nll_bound: (params, batch, keys) -> nats [b]."""

    def score(params, batch: Batch, keys: RowKeys):
        denoiser = denoiser_of(params)
        return nll_bound(keys, denoiser, batch, process, num_times=num_times, num_groups=num_groups)

    return jax.jit(score)


def score_batches(
    scorer, params: Any, batches: Iterable[tuple[Batch, np.ndarray]], *, end: int, seed: int
) -> Score:
    """Returns the bound for every real row of the batches; row i's noise is (seed, i)."""
    nats, tokens = [], []
    for batch, real in batches:
        keys = fold_in_rows(jax.random.key(seed), batch.index)
        nats.append(np.asarray(scorer(params, batch, keys))[real])
        scored = (batch.segment_ids > 0) & (batch.tokens != end) & ~batch.fixed
        tokens.append(np.sum(scored, axis=1)[real])
    return Score(nats=np.concatenate(nats), tokens=np.concatenate(tokens))


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
        tokens=np.array([np.sum(tokens != end) for tokens in sequences]),
    )
