"""A sampler in NumPy that shares no code with the package's, and the mistakes it can make."""

import dataclasses
import itertools
from collections.abc import Callable

import jax
import numpy as np

CHUNK = 32


def exact_tokens(rng, log_f, num):
    """Returns tokens drawn by inverting the distribution function."""
    cumulative = np.cumsum(np.exp(log_f - log_f.max()))
    return np.searchsorted(cumulative, rng.random(num) * cumulative[-1], side="right")


def tokens_by_coarse_noise(rng, log_f, num):
    """Returns tokens drawn as jax.random.categorical's default mode draws them.

    Every token's Gumbel noise comes from a uniform number of 23 bits. Among tokens of equal chance
    the largest number wins, and the largest of k needs one draw.
    """
    levels, group, sizes = np.unique(log_f, return_inverse=True, return_counts=True)
    uniform = rng.random((num, len(sizes))) ** (1.0 / sizes[None, :])
    largest = np.maximum(np.floor(2.0**23 * uniform) / 2.0**23, 2.0**-126)
    winner = np.argmax(levels[None, :] - np.log(-np.log(largest)), axis=1)
    return np.array([rng.choice(np.flatnonzero(group == won)) for won in winner], int)


@dataclasses.dataclass(frozen=True)
class Leaping:
    """Exact-rate steps on a sine grid; insertions are binomial in all that is missing.

    Its expected number is rounded at random, and what is inserted is spread over the gaps.

    Attributes:
      steps: Calls of the network.
      mistake: One of MISTAKES, or nothing.
      draw: Draws a number of tokens from log f.
    """

    steps: int = 64
    mistake: str = ""
    draw: Callable = exact_tokens

    def __call__(self, keys, denoiser, canvas, process):
        rng = np.random.default_rng(np.asarray(jax.random.key_data(keys))[0])
        encode, decode = jax.jit(denoiser.encode), jax.jit(denoiser.decode)
        rows = Rows.of(canvas, process.vocabulary)
        times = np.sin(np.linspace(0, np.pi / 2, self.steps + 1))
        for t, t_next in itertools.pairwise(times):
            last = t_next == times[-1]
            alpha = np.full((len(keys), 1), t, np.float32)
            encoding = encode(rows.tokens, rows.real.astype(np.int32), alpha)
            leap = t_next - t if self.mistake == "rate" else (t_next - t) / (1 - t)
            masked = rows.real & (rows.tokens == process.vocabulary.mask)
            chosen = masked & (rng.random(masked.shape) < (1.0 if last else leap))
            tokens = self._tokens(rng, decode, np.asarray(encoding.hidden)[chosen], process)
            if self.mistake != "shift":
                rows.tokens[chosen] = tokens
            if not last:
                rows = rows.insert(self._insertions(rng, rows, np.asarray(encoding.gaps), leap))
            if self.mistake == "shift":
                rows.tokens[chosen] = tokens
        return self._finished(rows, process.vocabulary)

    def _tokens(self, rng, decode, hidden, process):
        """Returns a token for each feature vector; equal ones are decoded once."""
        if not len(hidden):
            return np.zeros(0, int)
        kinds, kind = np.unique(hidden, axis=0, return_inverse=True)
        never = [process.vocabulary.mask]
        if self.mistake not in ("end", "end_cut"):
            never.append(process.vocabulary.end)
        tokens = np.zeros(len(hidden), int)
        # One shape of chunk, which is compiled once.
        padded = np.pad(kinds, ((0, -len(kinds) % CHUNK), (0, 0))).reshape(-1, CHUNK, len(kinds[0]))
        decoded = (row for chunk in padded for row in np.asarray(decode(chunk)))
        for number, row in zip(range(len(kinds)), decoded, strict=False):
            logits = row.astype(np.float64)
            logits[never] = -np.inf
            if self.mistake == "softmax":
                weights = np.exp(logits - logits.max())
                logits = np.where(logits > -np.inf, weights / weights.sum(), -np.inf)
            mine = kind.reshape(-1) == number
            tokens[mine] = self.draw(rng, logits, mine.sum())
        return tokens

    def _insertions(self, rng, rows, gaps, leap):
        gaps = np.where(rows.real & ~rows.closed, gaps, 0.0)
        total = gaps.sum(axis=1).astype(np.float64)
        inserted = rng.binomial(np.floor(total + rng.random(total.shape)).astype(int), leap)
        share = gaps / np.where(total > 0, total, 1.0)[:, None]
        # Rounding must not leave a remainder to the last slot, which may be padding.
        share[np.arange(len(share)), share.argmax(axis=1)] += 1.0 - share.sum(axis=1)
        counts = rng.multinomial(inserted, share)
        room = gaps.shape[1] - rows.real.sum(axis=1)
        for row in np.flatnonzero(counts.sum(axis=1) > room):
            if self.mistake == "overflow":
                counts[row] = 0
            else:
                counts[row] = rng.multivariate_hypergeometric(counts[row], room[row])
        return counts

    def _finished(self, rows, vocabulary):
        lengths = rows.real.sum(axis=1) - 1
        if self.mistake == "end_cut":
            lengths = np.argmax(rows.tokens == vocabulary.end, axis=1)
        return rows.tokens, lengths, np.full(len(lengths), self.steps)


MISTAKES = {
    "softmax": "softmax applied twice to f",
    "rate": "the factor 1 / (1 - t) missing in both leaps",
    "shift": "tokens drawn for old slots written where insertions have moved others",
    "overflow": "all insertions of a step dropped when they do not fit",
    "end": "END drawn like a token",
    "end_cut": "END drawn like a token, and rows cut there",
}


@dataclasses.dataclass
class Rows:
    """Partial sequences, one to a row."""

    tokens: np.ndarray
    real: np.ndarray
    closed: np.ndarray
    mask: int
    end: int

    @classmethod
    def of(cls, canvas, vocabulary):
        """Returns a copy of the canvas."""
        arrays = (np.array(x) for x in (canvas.tokens, canvas.segment_ids > 0, canvas.closed))
        return cls(*arrays, vocabulary.mask, vocabulary.end)

    def insert(self, counts):
        """Returns the rows with so many masks before each slot."""
        slots = np.arange(counts.shape[1])[None, :]
        target = slots + np.cumsum(counts, axis=1)
        real = slots < (self.real.sum(axis=1) + counts.sum(axis=1))[:, None]
        tokens, closed = np.where(real, self.mask, self.end), np.zeros_like(real)
        row, slot = np.nonzero(self.real)
        tokens[row, target[row, slot]] = self.tokens[row, slot]
        closed[row, target[row, slot]] = self.closed[row, slot]
        return Rows(tokens, real, closed, self.mask, self.end)
