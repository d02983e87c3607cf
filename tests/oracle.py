"""Exact denoisers for small known distributions, by enumeration of every labelled state.

A labelled state is a sequence of the support, the subset of its positions that are present and the
subset of those that are masked. Given x_t, the sequences behind it have posterior weight
p(x) · (1 - α)^missing, one term for each way to embed x_t in x. Collecting these terms by the
number of missing tokens gives, for each x_t, polynomials in 1 - α, tabulated once in float64.
"""

import dataclasses
import functools
import itertools

import jax.numpy as jnp
import numpy as np

from flexmdm_jax.types import Batch, Denoiser, Encoding, Vocabulary

VOCABULARY = Vocabulary(size=5, mask=1, end=3)
DATA_TOKENS = (0, 2, 4)


@dataclasses.dataclass(frozen=True)
class Law:
    """A distribution over short sequences of data tokens.

    Attributes:
      sequences: The support.
      probs: Their probabilities.
    """

    sequences: tuple[tuple[int, ...], ...]
    probs: tuple[float, ...]

    def __post_init__(self):
        assert abs(sum(self.probs) - 1) < 1e-12
        assert len(set(self.sequences)) == len(self.probs)

    @property
    def max_length(self) -> int:
        return max(len(x) for x in self.sequences)

    def entropy(self) -> float:
        """Returns H(p) in nats."""
        return -sum(p * np.log(p) for p in self.probs)

    def lengths(self) -> np.ndarray:
        """Returns the distribution of the length."""
        lengths = [len(x) for x in self.sequences]
        return np.bincount(lengths, weights=self.probs)

    def given(self, prefix=(), suffix=()) -> "Law":
        """Returns the law given how the sequence starts and how it ends (without overlap)."""
        fits = [
            (x, p)
            for x, p in zip(self.sequences, self.probs, strict=True)
            if len(x) >= len(prefix) + len(suffix)
            and x[: len(prefix)] == tuple(prefix)
            and x[len(x) - len(suffix) :] == tuple(suffix)
        ]
        total = sum(p for _, p in fits)
        return Law(tuple(x for x, _ in fits), tuple(p / total for _, p in fits))

    def total_variation(self, tokens, lengths) -> float:
        """Returns the total variation between sampled rows and this law."""
        rows = np.asarray(tokens)
        probs = dict(zip(self.sequences, self.probs, strict=True))
        found, counts = np.unique(
            np.concatenate([np.asarray(lengths)[:, None], rows], axis=1), axis=0, return_counts=True
        )
        excess = 0.0
        for row, count in zip(found, counts, strict=True):
            sequence = tuple(int(v) for v in row[1 : 1 + row[0]])
            excess += max(0.0, count / len(rows) - probs.get(sequence, 0.0))
        return excess

    def floor(self, num_samples: int) -> float:
        """Returns the expected total variation of num_samples exact draws (normal limit)."""
        p = np.asarray(self.probs)
        return float(np.sum(np.sqrt(p * (1 - p) / (2 * np.pi * num_samples))))

    def rows(self, choice, length: int) -> Batch:
        """Returns the chosen sequences of the support, each closed by its fixed END."""
        table = np.full((len(self.sequences), length), VOCABULARY.end, np.int32)
        for row, x in zip(table, self.sequences, strict=True):
            row[: len(x)] = x
        size = np.array([len(x) for x in self.sequences])[choice][:, None]
        slots = np.arange(length)[None, :]
        return Batch(
            tokens=jnp.asarray(table[choice]),
            segment_ids=jnp.asarray(slots <= size, jnp.int32),
            fixed=jnp.asarray(slots == size),
            index=jnp.arange(len(choice)),
        )


P1 = Law(
    sequences=(
        (),
        (0,),
        (4,),
        (0, 0),
        (0, 2),
        (2, 0),
        (4, 4),
        (0, 2, 0),
        (2, 2, 4),
        (4, 0, 0),
        (0, 4, 2, 0),
        (2, 2, 0, 4),
    ),
    probs=(0.06, 0.10, 0.05, 0.08, 0.17, 0.05, 0.09, 0.12, 0.10, 0.04, 0.08, 0.06),
)


def _subsets(items):
    return itertools.chain.from_iterable(
        itertools.combinations(items, n) for n in range(len(items) + 1)
    )


class _States:
    """Numbers the partial sequences over some symbols, up to a length."""

    def __init__(self, symbols, max_length):
        self.base = len(symbols)
        self.max_length = max_length
        self.first = np.cumsum([0] + [self.base**n for n in range(max_length + 1)])
        self.number_of = np.full(VOCABULARY.size, -1)
        self.number_of[list(symbols)] = np.arange(self.base)
        self.count = int(self.first[-1])

    def code(self, state) -> int:
        digits = self.number_of[list(state)]
        return int(self.first[len(state)] + sum(d * self.base**i for i, d in enumerate(digits)))

    def codes(self, tokens, lengths):
        """Returns the number of each row's state; self.count for what is no state at all."""
        width = min(tokens.shape[1], self.max_length)
        inside = jnp.arange(width)[None, :] < lengths[:, None]
        digits = jnp.asarray(self.number_of)[tokens[:, :width]]
        powers = jnp.asarray(self.base ** np.arange(width))[None, :]
        code = jnp.asarray(self.first)[lengths] + jnp.sum(jnp.where(inside, digits * powers, 0), 1)
        valid = (lengths <= self.max_length) & ~jnp.any(inside & (digits < 0), axis=1)
        return jnp.where(valid, code, self.count)


@functools.cache
def _flexmdm_tables(law: Law, num_prefix: int, num_suffix: int):
    """Tabulates, per state and number of missing tokens: weight, weighted tokens, weighted gaps."""
    n = law.max_length
    states = _States((*DATA_TOKENS, VOCABULARY.mask), n)
    weight = np.zeros((states.count + 1, n + 1))
    tokens = np.zeros((states.count + 1, n + 1, n, len(DATA_TOKENS)))
    gaps = np.zeros((states.count + 1, n + 1, n + 1))
    for x, p in zip(law.sequences, law.probs, strict=True):
        n = len(x)
        free = range(num_prefix, n - num_suffix)
        fixed = [*range(num_prefix), *range(max(n - num_suffix, num_prefix), n)]
        for chosen in _subsets(free):
            kept = sorted([*fixed, *chosen])
            bounds = [-1, *kept, n]
            gap = [b - a - 1 for a, b in itertools.pairwise(bounds)]
            missing = n - len(kept)
            for masks in _subsets(chosen):
                state = states.code([VOCABULARY.mask if i in masks else x[i] for i in kept])
                weight[state, missing] += p
                gaps[state, missing, : len(gap)] += p * np.array(gap)
                for slot, i in enumerate(kept):
                    tokens[state, missing, slot, DATA_TOKENS.index(x[i])] += p
    return states, weight, tokens, gaps


def flexmdm_oracle(law: Law, num_prefix: int = 0, num_suffix: int = 0) -> Denoiser:
    """Returns the exact denoiser; hidden features are the log posteriors of the data tokens.

    Rows hold one sequence and its END; at padding everything is NaN, which nobody may look at.
    States the process cannot reach get a uniform posterior and no gaps.

    Args:
      law: The distribution of x₁; for conditional generation, already given what is fixed.
      num_prefix: Tokens at the start of each sequence that are always present and clean.
      num_suffix: The same at the end, before END.
    """
    states, *tables = _flexmdm_tables(law, num_prefix, num_suffix)
    weight, tokens, gaps = (jnp.asarray(table, jnp.float32) for table in tables)

    def encode(x, segment_ids, alpha):
        real = segment_ids > 0
        code = states.codes(x, jnp.sum(real, axis=1) - 1)
        # The limit from below at α = 1, which float32 may round to.
        chance = jnp.maximum(1.0 - alpha, 2.0**-26) ** jnp.arange(weight.shape[1])[None, :]
        total = jnp.sum(weight[code] * chance, axis=1)
        possible = (total > 0)[:, None]
        total = jnp.where(possible, total[:, None], 1.0)
        posterior = jnp.einsum("bmiv,bm->biv", tokens[code], chance) / total[:, :, None]
        gap = jnp.einsum("bmi,bm->bi", gaps[code], chance) / total
        hidden = jnp.where(possible[:, :, None], jnp.log(posterior), 0.0)
        return _fit(hidden, jnp.where(possible, gap, 0.0), real)

    return Denoiser(encode=encode, decode=_decode)


def _decode(hidden):
    """Returns logits in which the tokens that are no data are impossible."""
    logits = jnp.full((*hidden.shape[:-1], VOCABULARY.size), -jnp.inf)
    return logits.at[..., jnp.array(DATA_TOKENS)].set(hidden)


def _fit(hidden, gaps, real) -> Encoding:
    """Cuts or widens the oracle's slots to the row's, with NaN at padding."""
    length = real.shape[1]
    hidden = jnp.pad(hidden, ((0, 0), (0, length), (0, 0)))[:, :length]
    gaps = jnp.pad(gaps, ((0, 0), (0, length)))[:, :length]
    return Encoding(
        hidden=jnp.where(real[:, :, None], hidden, jnp.nan), gaps=jnp.where(real, gaps, jnp.nan)
    )


@functools.cache
def _mdm_tables(law: Law, length: int):
    states = _States((*DATA_TOKENS, VOCABULARY.end, VOCABULARY.mask), length)
    tokens = np.zeros((states.count + 1, length, VOCABULARY.size))
    for x, p in zip(law.sequences, law.probs, strict=True):
        row = [*x, *[VOCABULARY.end] * (length - len(x))]
        for masks in _subsets(range(length)):
            state = states.code([VOCABULARY.mask if i in masks else row[i] for i in range(length)])
            tokens[state, range(length), row] += p
    return states, tokens


def mdm_oracle(law: Law, length: int) -> Denoiser:
    """Returns the exact denoiser of rows padded with END to length, in which nothing is absent."""
    states, table = _mdm_tables(law, length)
    tokens = jnp.asarray(table, jnp.float32)

    def encode(x, segment_ids, alpha):
        code = states.codes(x, jnp.sum(segment_ids > 0, axis=1))
        weight = tokens[code]
        total = jnp.sum(weight, axis=2, keepdims=True)
        hidden = jnp.where(total > 0, jnp.log(weight / jnp.where(total > 0, total, 1.0)), 0.0)
        return Encoding(hidden=hidden, gaps=jnp.zeros(x.shape))

    return Denoiser(encode=encode, decode=lambda hidden: hidden)
