"""Two runs on the same examples: which is better, and how sure that is."""

import dataclasses
from collections.abc import Mapping, Sequence
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
# What tables call the only run of a method, or the first.
_METHODS = {"flexmdm": "FlexMDM", "mdm": "MDM"}


def labels_of(workdirs: Sequence[str], methods: Sequence[str]) -> list[str]:
    """Returns what tables call runs: each by its method, or by its folder if that is taken.

    Args:
      workdirs: Their folders, as they were named; all different.
      methods: Of each, as its config has it.
    """
    labels: list[str] = []
    for workdir, method in zip(workdirs, methods, strict=True):
        # Its name may be that of a method, or of another row, such as data.
        folder = workdir if "/" in workdir else f"./{workdir}"
        labels.append(folder if _METHODS[method] in labels else _METHODS[method])
    return labels


class Run(NamedTuple):
    """Who did something on the examples.

    Attributes:
      label: The model.
      way: In which way it was sampled; "" for what does not depend on it.
      pace: Of this way, how calls of the network are spent, as `64 steps`.
    """

    label: str
    way: str = ""
    pace: str = ""

    @property
    def name(self) -> str:
        """Returns what a table calls it."""
        return f"{self.label}, {self.way}" if self.way else self.label


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

    @property
    def success(self) -> float:
        """Returns the share of questions answered rightly."""
        ratio = self.figures["success"]
        return ratio.of(np.ones(len(ratio.values)))

    @classmethod
    def of_successes(cls, successes: np.ndarray) -> "Examples":
        """Returns those of questions answered rightly or not."""
        values = np.asarray(successes, float)
        return cls({"success": Ratio(values, np.ones(len(values)))})


def differences(
    examples: Mapping[Run, Examples], baseline: str, seed: int
) -> dict[str, dict[str, float | str]]:
    """Returns a row for each figure of each model that the baseline has as well.

    A way of sampling is compared with the same one of the baseline. Where the baseline was not
    sampled so, it is compared with its best one at the same pace.

    Args:
      examples: Who -> what it did.
      baseline: The model to compare with.
      seed: Decides the draws of the paired bootstrap.
    """
    rows = {}
    for run, own in examples.items():
        rival = _rival(run, examples, baseline)
        if run.label == baseline or rival is None:
            continue
        for name, ratio in own.figures.items():
            other = examples[rival].figures[name]
            # A sequence may have more tokens in one model's rows than in the other's: padding.
            size = len(ratio.values)
            found = paired_difference(
                lambda counts, a=ratio, b=other: a.of(counts) - b.of(counts), size, seed=seed
            )
            shown = rival.label if rival.way == run.way else rival.name
            rows[f"{run.name} - {shown}: {name}"] = {
                "figure": ratio.of(np.ones(size)),
                "baseline": other.of(np.ones(size)),
                "difference": found.value,
                "low": found.low,
                "high": found.high,
                "p": found.p,
                "examples": float(size),
            }
    return rows


def _rival(run: Run, examples: Mapping[Run, Examples], baseline: str) -> Run | None:
    """Returns the baseline's run to compare with, if there is one."""
    theirs = [other for other in examples if other.label == baseline]
    same = [other for other in theirs if other.way == run.way]
    as_fast = [other for other in theirs if run.way and other.pace == run.pace]
    return next(iter(same), max(as_fast, key=lambda x: examples[x].success, default=None))
