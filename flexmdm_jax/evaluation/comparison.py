"""Two runs on the same examples: which is better, and how sure that is."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from flexmdm_jax.evaluation.bootstrap import paired_difference
from flexmdm_jax.generation.scoring import Score

# Columns of the table of differences.
COLUMNS = {
    "figure": "figure",
    "baseline": "baseline",
    "difference": "difference",
    "low": "95% low",
    "high": "95% high",
    "p": "p",
    "examples": "examples",
}


class Ratio(NamedTuple):
    """A figure that is a ratio of sums over examples, such as nats per token.

    Attributes:
      values: What is summed above.
      units: What is summed below.
    """

    values: Float[np.ndarray, "n"]
    units: Float[np.ndarray, "n"]

    def of(self, counts: np.ndarray) -> float:
        """Returns the figure, where examples count so many times."""
        total = (counts * self.units).sum()
        return float((counts * self.values).sum() / total) if total else float("nan")


@dataclasses.dataclass(frozen=True)
class Examples:
    """What a model did on each example; the same examples for all models.

    Attributes:
      figures: Name -> the figure's ratio.
    """

    figures: Mapping[str, Ratio]

    @classmethod
    def of_score(cls, score: Score) -> "Examples":
        """Returns those of likelihood bounds."""
        ones = np.ones(len(score.nats))
        return cls(
            {
                "nats_per_sequence": Ratio(score.nats, ones),
                "nats_per_token": Ratio(score.nats, score.tokens.astype(float)),
            }
        )

    @classmethod
    def of_successes(cls, successes: np.ndarray) -> "Examples":
        """Returns those of questions answered rightly or not."""
        values = np.asarray(successes, float)
        return cls({"success": Ratio(values, np.ones(len(values)))})


def differences(
    examples: Mapping[tuple[str, str], Examples], baseline: str, seed: int
) -> dict[str, dict[str, float | str]]:
    """Returns a row for each figure of each model that the baseline has as well.

    Args:
      examples: (model, way of sampling, or "") -> what it did.
      baseline: The model to compare with, way by way.
      seed: Decides the draws of the paired bootstrap.
    """
    rows = {}
    for (label, way), own in examples.items():
        theirs = examples.get((baseline, way))
        if label == baseline or theirs is None:
            continue
        for name, ratio in own.figures.items():
            other = theirs.figures[name]
            # A sequence may have more tokens in one model's rows than in the other's: padding.
            size = len(ratio.values)
            found = paired_difference(
                lambda counts, a=ratio, b=other: a.of(counts) - b.of(counts), size, seed=seed
            )
            title = ", ".join(filter(None, (label, way))) + f" - {baseline}: {name}"
            rows[title] = {
                "figure": ratio.of(np.ones(size)),
                "baseline": other.of(np.ones(size)),
                "difference": found.value,
                "low": found.low,
                "high": found.high,
                "p": found.p,
                "examples": float(size),
            }
    return rows
