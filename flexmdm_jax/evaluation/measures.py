"""What texts are measured by, generated ones and the controls beside them alike."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.bootstrap import with_error
from flexmdm_jax.evaluation.diversity import (
    distinct,
    entropy_of_counts,
    sample_entropies,
    token_counts,
)
from flexmdm_jax.evaluation.fluency import generative_perplexity
from flexmdm_jax.evaluation.lengths import kolmogorov_smirnov, total_variation, wasserstein1
from flexmdm_jax.evaluation.mauve import mauve
from flexmdm_jax.evaluation.ngrams import ngram_distances

LIKELIHOOD, LENGTHS, DIVERSITY, NGRAMS = "likelihood", "lengths", "diversity", "ngrams"
PERPLEXITY, MAUVE = "perplexity", "mauve"
# Those that a model is measured by alone, and those that a reference model is asked for.
OWN, OF_REFERENCE = (LIKELIHOOD, LENGTHS, DIVERSITY, NGRAMS), (PERPLEXITY, MAUVE)
METRICS = OWN + OF_REFERENCE


@runtime_checkable
class Judge(Protocol):
    """What knows an autoregressive model: `evaluation.reference.Reference`."""

    def scores(self, texts: Sequence[str]) -> list[Float[np.ndarray, "_"]]:
        """Returns -log p of the tokens of each text, in nats."""

    def features(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Returns a vector that stands for each text."""


def chosen_metrics(names: Sequence[str], has_reference: bool) -> tuple[str, ...]:
    """Returns the metrics to compute: those named, or else all that can be.

    Raises:
      UserError: If one is unknown, or needs a reference and there is none.
    """
    for name in names:
        if name not in METRICS:
            raise UserError(f"--metrics: {name!r} is none of {', '.join(METRICS)}")
        if name in OF_REFERENCE and not has_reference:
            raise UserError(
                f"--metrics={name} asks an autoregressive model; name its folder with --reference"
            )
    if has_reference and names and not set(names) & set(OF_REFERENCE):
        raise UserError(
            f"--reference is for {' and '.join(OF_REFERENCE)}, which --metrics leaves out; name "
            "one or leave --reference out"
        )
    return tuple(names) or (METRICS if has_reference else OWN)


@dataclasses.dataclass(frozen=True)
class Measures:
    """Figures of texts, compared with held-out ones.

    Attributes:
      metrics: Which of METRICS.
      lengths: Those of all held-out texts.
      held_out: Tokens of held-out texts, without END.
      decode: Tokens -> text.
      vocabulary_size: Number of ids.
      bin_width: Lengths to a bin, for their total variation.
      reference: An autoregressive model, or None.
      seed: Decides the draws behind the errors.
    """

    metrics: Sequence[str]
    lengths: Int[np.ndarray, "_"]
    held_out: Sequence[Int[np.ndarray, "_"]]
    decode: Callable[[Sequence[int]], str]
    vocabulary_size: int
    bin_width: int = 1
    reference: Judge | None = None
    seed: int = 0

    def of(self, texts: Sequence[Int[np.ndarray, "_"]]) -> dict[str, float]:
        """Returns the figures of texts, each with its standard error where there is one.

        Args:
          texts: Their tokens, without END; at least one text.
        """
        figures = {"texts": float(len(texts))}
        # A perplexity means nothing without them.
        if {LENGTHS, DIVERSITY, PERPLEXITY} & set(self.metrics):
            figures |= self._variety(texts)
        if LENGTHS in self.metrics:
            figures |= self._length_distances(texts)
        if NGRAMS in self.metrics:
            figures |= ngram_distances(texts, self.held_out, seed=self.seed)
        if self.reference is not None:
            figures |= self._of_reference(self.reference, self._strings(texts))
        return figures

    def _variety(self, texts) -> dict[str, float]:
        lengths = np.array([len(tokens) for tokens in texts])
        own = sample_entropies(texts)
        counts = token_counts(texts, self.vocabulary_size)
        return {
            "length_mean": float(np.mean(lengths)),
            "empty": float(np.mean(lengths == 0)),
            "token_entropy": entropy_of_counts(counts),
            # Of a text without tokens nothing can be said; how many there are stands beside it.
            "sample_entropy": float(np.mean(own[lengths > 0])) if lengths.any() else float("nan"),
            **{f"distinct_{n}": distinct(texts, n) for n in (1, 2, 3)},
        }

    def _length_distances(self, texts) -> dict[str, float]:
        lengths = np.array([len(tokens) for tokens in texts])
        distances = {
            "length_tv": lambda x: total_variation(x, self.lengths, self.bin_width),
            "length_w1": lambda x: wasserstein1(x, self.lengths),
            "length_ks": lambda x: kolmogorov_smirnov(x, self.lengths),
        }
        figures = {}
        for name, distance in distances.items():
            statistic = lambda n, distance=distance: distance(np.repeat(lengths, n))  # noqa: E731
            figures |= with_error(name, statistic, len(lengths), seed=self.seed)
        return figures

    def _of_reference(self, reference: Judge, texts: list[str]) -> dict[str, float]:
        figures = {}
        if PERPLEXITY in self.metrics:
            figures |= generative_perplexity(reference.scores(texts), seed=self.seed)
        if MAUVE in self.metrics:
            figures |= mauve(reference.features(texts), self._others, seed=self.seed)
        return figures

    @functools.cached_property
    def _others(self) -> Float[np.ndarray, "n d"]:
        return self.reference.features(self._strings(self.held_out))

    def _strings(self, texts) -> list[str]:
        return [self.decode(tokens.tolist()) for tokens in texts]
