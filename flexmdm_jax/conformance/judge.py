"""The judge: whether a sampler draws from laws that are known exactly."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int

from flexmdm_jax.conformance.laws import Law
from flexmdm_jax.conformance.problems import Problem, problems
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import Canvas
from flexmdm_jax.types import Denoiser, RowKeys

# (keys, denoiser, canvas, process) -> (tokens [b, l], lengths [b]) or, with calls [b], three.
Sampler = Callable[[RowKeys, Denoiser, Canvas, Process], Sequence[Any]]

# An exact sampler exceeds one of the limits about once in ten thousand judgements.
NUM_DEVIATIONS = 4.0


@dataclasses.dataclass(frozen=True)
class Judgement:
    """How far a sampler is from a law.

    Attributes:
      problem: Its name.
      num_samples: Rows drawn.
      mean_calls: Calls of the network per row, None if the sampler does not say.
      total_variation: Between rows and law. Rows outside the support are part of it.
      floor: The mean total variation of as many exact draws.
      margin: Four standard deviations of the total variation of as many exact draws.
      length_total_variation: Between the rows' lengths and the law's.
      length_limit: Mean and four standard deviations of that of exact draws.
      token_deviation: The largest deviation of a token's frequency, in its standard deviations;
        exact draws stay below four.
      num_invalid: Rows with MASK, END or no token at all before their length.
      num_outside: Rows that are no sequence of the law's, the invalid ones among them.
    """

    problem: str
    num_samples: int
    mean_calls: float | None
    total_variation: float
    floor: float
    margin: float
    length_total_variation: float
    length_limit: float
    token_deviation: float
    num_invalid: int
    num_outside: int

    @property
    def follows(self) -> bool:
        """Returns whether the rows could as well be exact draws."""
        return not self.reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """Returns what exact draws would not show."""
        limit = self.floor + self.margin
        found = {
            f"{self.num_invalid} rows hold MASK, END or no token": self.num_invalid > 0,
            f"total variation {self.total_variation:.4f} > {limit:.4f}": (
                self.total_variation > limit
            ),
            f"total variation of lengths {self.length_total_variation:.4f} > "
            f"{self.length_limit:.4f}": self.length_total_variation > self.length_limit,
            f"a token is {self.token_deviation:.1f} deviations off": (
                self.token_deviation > NUM_DEVIATIONS
            ),
        }
        return tuple(reason for reason, holds in found.items() if holds)


def judge(
    sample: Sampler,
    problem: Problem,
    *,
    num_samples: int | None = None,
    batch: int | None = None,
    seed: int = 0,
) -> Judgement:
    """Returns how far what a sampler draws is from a problem's law.

    What chance does to exact draws is found by drawing them: their total variation from their own
    law has a mean, the floor, and a standard deviation, at most 1 / (2 √n) for n rows (McDiarmid).

    Args:
      sample: Any function of keys [b], denoiser, canvas and process that returns tokens [b, l] and
        lengths [b], and the network calls [b] of each row if it likes. Arrays may be of any library
        that NumPy reads. What stands behind a row's length is not looked at.
      problem: What to draw.
      num_samples: Rows; None takes the problem's own number.
      batch: Rows of a call of the sampler; None asks for all at once.
      seed: Of the keys.

    Raises:
      ValueError: If the sampler returns something else.
    """
    num_samples = num_samples or problem.num_samples
    batch = batch or num_samples
    keys = jax.random.split(jax.random.key(seed), num_samples)
    parts = []
    for first in range(0, num_samples, batch):
        own = keys[first : first + batch]
        canvas = problem.canvas(len(own))
        parts.append(_checked(sample(own, problem.denoiser, canvas, problem.process), len(own)))
    calls = [part[2] for part in parts if part[2] is not None]
    mean_calls = float(np.concatenate(calls).mean()) if calls else None
    rows = [row[:n] for tokens, lengths, _ in parts for row, n in zip(tokens, lengths, strict=True)]
    return _judged(rows, mean_calls, problem, num_samples)


def _judged(rows: list, mean_calls, problem: Problem, num_samples: int) -> Judgement:
    lengths = np.array([len(row) for row in rows])
    tokens = np.zeros((len(rows), max(lengths.max(), 1)), np.int64)
    for row, found in zip(tokens, rows, strict=True):
        row[: len(found)] = found
    invalid, law = _invalid(tokens, lengths, problem.law), problem.law
    support = set(law.sequences)
    spread = law.spread(num_samples)
    length_limit = spread.length_floor + NUM_DEVIATIONS * spread.length_deviation
    return Judgement(
        problem=problem.name,
        num_samples=num_samples,
        mean_calls=mean_calls,
        total_variation=law.total_variation(tokens, lengths),
        floor=spread.floor,
        margin=NUM_DEVIATIONS * spread.deviation,
        length_total_variation=law.length_total_variation(lengths),
        length_limit=length_limit,
        token_deviation=law.token_deviation(tokens, lengths),
        num_invalid=int(invalid.sum()),
        num_outside=sum(n for x, n in law.counts(tokens, lengths).items() if x not in support),
    )


def _checked(result: Any, num_rows: int) -> tuple[np.ndarray, np.ndarray, Any]:
    """Returns (tokens, lengths, calls or None) as NumPy arrays of the right shapes."""
    if not isinstance(result, tuple | list) or not 2 <= len(result) <= 3:
        raise ValueError("a sampler returns (tokens, lengths) or (tokens, lengths, calls)")
    tokens, lengths, *calls = (np.asarray(x) for x in result)
    for name, array, shape in (
        ("tokens", tokens, f"[{num_rows}, l]"),
        ("lengths", lengths, f"[{num_rows}]"),
    ):
        if (
            array.ndim != shape.count(",") + 1
            or len(array) != num_rows
            or array.dtype.kind not in "iu"
        ):
            raise ValueError(f"{name} are {array.dtype} {list(array.shape)}, not integers {shape}")
    if lengths.min() < 0 or lengths.max() > tokens.shape[1]:
        raise ValueError(f"lengths lie outside the {tokens.shape[1]} slots of tokens")
    if calls and calls[0].shape != (num_rows,):
        raise ValueError(f"calls have shape {calls[0].shape}, not [{num_rows}]")
    return tokens, lengths, calls[0] if calls else None


def _invalid(
    tokens: Int[np.ndarray, "b l"], lengths: Int[np.ndarray, "b"], law: Law
) -> Bool[np.ndarray, "b"]:
    """Returns which rows hold MASK, END or an id outside the vocabulary before their length."""
    vocabulary = law.vocabulary
    wrong = (tokens == vocabulary.mask) | (tokens == vocabulary.end)
    wrong |= (tokens < 0) | (tokens >= vocabulary.size)
    return np.any(wrong & (np.arange(tokens.shape[1])[None, :] < lengths[:, None]), axis=1)


def judge_all(
    sample: Sampler, *, num_samples: int | None = None, batch: int | None = None, seed: int = 0
) -> tuple[Judgement, ...]:
    """Returns the judgements of a sampler on every problem; see judge()."""
    return tuple(
        judge(sample, problem, num_samples=num_samples, batch=batch, seed=seed)
        for problem in problems().values()
    )


@dataclasses.dataclass(frozen=True)
class Convergence:
    """How a family of samplers comes closer to a law as it calls the network more often.

    Attributes:
      calls: What each member was asked for, ascending.
      judgements: One of each.
      tolerance: What the last may be off beyond chance, in total variation.
    """

    calls: tuple[int, ...]
    judgements: tuple[Judgement, ...]
    tolerance: float

    @property
    def converges(self) -> bool:
        """Returns whether total variation falls, chance aside, to the floor at the last."""
        values = [x.total_variation for x in self.judgements]
        last = self.judgements[-1]
        falls = values[-1] <= min(values) + last.margin
        valid = not any(x.num_invalid for x in self.judgements)
        return falls and valid and values[-1] <= last.floor + last.margin + self.tolerance


def convergence(
    sample_at: Callable[[int], Sampler],
    calls: Iterable[int],
    problem: Problem,
    *,
    tolerance: float = 0.0,
    num_samples: int | None = None,
    batch: int | None = None,
    seed: int = 0,
) -> Convergence:
    """Returns how the samplers of a family are judged on a problem, by their number of calls.

    Args:
      sample_at: Returns the sampler that makes about so many calls.
      calls: Numbers of calls.
      problem: What to draw.
      tolerance: What the last may be off beyond chance, in total variation.
      num_samples: See judge().
      batch: See judge().
      seed: See judge().

    Raises:
      ValueError: If no number of calls is given, or a sampler returns something else.
    """
    calls = tuple(sorted(calls))
    if not calls:
        raise ValueError("no number of calls to judge at")
    settings = {"num_samples": num_samples, "batch": batch, "seed": seed}
    judged = tuple(judge(sample_at(n), problem, **settings) for n in calls)
    return Convergence(calls, judged, tolerance)


def table(judgements: Iterable[Judgement]) -> str:
    """Returns a Markdown table of judgements, one to a line, total variations in thousandths."""
    head = ("law", "samples", "calls", "TV", "floor", "limit", "length TV", "outside", "verdict")
    lines = [head, ("---",) + ("---:",) * (len(head) - 2) + ("---",)]
    for x in judgements:
        calls = "" if x.mean_calls is None else f"{x.mean_calls:.1f}"
        values = (x.total_variation, x.floor, x.floor + x.margin, x.length_total_variation)
        thousandths = tuple(f"{1000 * value:.1f}" for value in values)
        verdict = "follows" if x.follows else "FAILS: " + "; ".join(x.reasons)
        row = (x.problem, f"{x.num_samples:,}", calls, *thousandths, str(x.num_outside), verdict)
        lines.append(row)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
