"""Laws of short sequences, known exactly, and how far samples are from them."""

import collections
import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from flexmdm_jax.types import Batch, HostOrDevice, Vocabulary

VOCABULARY = Vocabulary(size=5, mask=1, end=3)
# Exact draws that tell how far from a law as many samples are by chance.
_REPEATS = 400


@dataclasses.dataclass(frozen=True)
class Law:
    """A distribution over short sequences of data tokens.

    Attributes:
      sequences: The support.
      probs: Their probabilities.
      vocabulary: Ids of MASK and END, and how many there are.
      tail: Ids from this one on count as one token, this one, where samples are compared with the
        law; None counts each id by itself.

    Raises:
      ValueError: If the probabilities do not sum to 1, or a sequence comes twice.
    """

    sequences: tuple[tuple[int, ...], ...]
    probs: tuple[float, ...]
    vocabulary: Vocabulary = VOCABULARY
    tail: int | None = None

    def __post_init__(self):
        if abs(sum(self.probs) - 1) > 1e-12:
            raise ValueError(f"the probabilities sum to {sum(self.probs)}, not to 1")
        if not len(set(self.sequences)) == len(self.sequences) == len(self.probs):
            raise ValueError("a law has different sequences, and a probability for each")

    @property
    def max_length(self) -> int:
        """Returns the length of the longest sequence."""
        return max(len(x) for x in self.sequences)

    @functools.cached_property
    def tokens(self) -> tuple[int, ...]:
        """Returns the tokens that occur, ascending; the tail is one of them."""
        return tuple(sorted({v for x in self.sequences for v in x}))

    def entropy(self) -> float:
        """Returns H(p) in nats."""
        return -sum(p * np.log(p) for p in self.probs)

    def lengths(self) -> Float[np.ndarray, "_"]:
        """Returns the distribution of the length."""
        lengths = [len(x) for x in self.sequences]
        return np.bincount(lengths, weights=self.probs)

    def given(self, prefix: tuple[int, ...] = (), suffix: tuple[int, ...] = ()) -> "Law":
        """Returns the law given how the sequence starts and how it ends (without overlap)."""
        fits = [
            (x, p)
            for x, p in zip(self.sequences, self.probs, strict=True)
            if len(x) >= len(prefix) + len(suffix)
            and x[: len(prefix)] == tuple(prefix)
            and x[len(x) - len(suffix) :] == tuple(suffix)
        ]
        total = sum(p for _, p in fits)
        probs = tuple(p / total for _, p in fits)
        return dataclasses.replace(self, sequences=tuple(x for x, _ in fits), probs=probs)

    def rows(self, choice: Int[np.ndarray, "b"], length: int) -> Batch:
        """Returns the chosen sequences of the support, each closed by its fixed END."""
        table = np.full((len(self.sequences), length), self.vocabulary.end, np.int32)
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

    def counts(
        self, tokens: Int[HostOrDevice, "b l"], lengths: Int[HostOrDevice, "b"]
    ) -> dict[tuple[int, ...], int]:
        """Returns how often each sequence was drawn; what stands behind a length does not count."""
        rows = np.asarray(tokens)
        if self.tail is not None:
            rows = np.minimum(rows, self.tail)
        inside = np.arange(rows.shape[1])[None, :] < np.asarray(lengths)[:, None]
        drawn = np.concatenate([np.asarray(lengths)[:, None], np.where(inside, rows, 0)], axis=1)
        found, counts = np.unique(drawn, axis=0, return_counts=True)
        sequences = (tuple(int(v) for v in row[1 : 1 + row[0]]) for row in found)
        return dict(zip(sequences, counts.tolist(), strict=True))

    def total_variation(
        self, tokens: Int[HostOrDevice, "b l"], lengths: Int[HostOrDevice, "b"]
    ) -> float:
        """Returns the total variation between sampled rows and this law."""
        probs = dict(zip(self.sequences, self.probs, strict=True))
        counts = self.counts(tokens, lengths)
        return sum(max(0.0, n / len(tokens) - probs.get(x, 0.0)) for x, n in counts.items())

    def length_total_variation(self, lengths: Int[HostOrDevice, "b"]) -> float:
        """Returns the total variation between sampled lengths and the length's distribution."""
        drawn = np.bincount(np.asarray(lengths), minlength=self.max_length + 1) / len(lengths)
        expected = np.pad(self.lengths(), (0, len(drawn) - self.max_length - 1))
        return float(np.abs(drawn - expected).sum() / 2)

    def token_deviation(
        self, tokens: Int[HostOrDevice, "b l"], lengths: Int[HostOrDevice, "b"]
    ) -> float:
        """Returns the largest deviation of a token's frequency, in its standard deviations.

        Total variation adds up the noise of all sequences, in which a rare token would be lost.
        """
        counts = self.counts(tokens, lengths)
        drawn = _token_counts(counts, self.tokens).T @ np.array([*counts.values()]) / len(tokens)
        each = _token_counts(self.sequences, self.tokens)
        mean = np.array(self.probs) @ each
        error = np.sqrt(np.array(self.probs) @ (each - mean) ** 2 / len(tokens))
        # Where a token's number is certain it has no deviation to measure in.
        varies = error > 1e-9
        return float(np.max(np.abs(drawn - mean)[varies] / error[varies], initial=0.0))

    def floor(self, num_samples: int) -> float:
        """Returns the expected total variation of num_samples exact draws (normal limit)."""
        p = np.asarray(self.probs)
        return float(np.sum(np.sqrt(p * (1 - p) / (2 * np.pi * num_samples))))

    def spread(self, num_samples: int) -> "Spread":
        """Returns what chance does to num_samples exact draws, found by drawing them 400 times."""
        p = np.array(self.probs) / np.sum(self.probs)
        off = np.random.default_rng(0).multinomial(num_samples, p, size=_REPEATS) / num_samples - p
        by_length = np.zeros((len(p), self.max_length + 1))
        by_length[np.arange(len(p)), [len(x) for x in self.sequences]] = 1.0
        whole, lengths = (np.abs(x).sum(axis=1) / 2 for x in (off, off @ by_length))
        return Spread(
            floor=float(whole.mean()),
            deviation=float(whole.std()),
            length_floor=float(lengths.mean()),
            length_deviation=float(lengths.std()),
        )


@dataclasses.dataclass(frozen=True)
class Spread:
    """Total variations of exact draws from their own law.

    Attributes:
      floor: Their mean.
      deviation: Their standard deviation.
      length_floor: The mean of those of the length alone.
      length_deviation: Their standard deviation.
    """

    floor: float
    deviation: float
    length_floor: float
    length_deviation: float


def _token_counts(sequences, tokens: tuple[int, ...]) -> Int[np.ndarray, "k v"]:
    """Returns how often each token comes in each sequence."""
    counted = [collections.Counter(x) for x in sequences]
    return np.array([[count[v] for v in tokens] for count in counted], int).reshape(-1, len(tokens))


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

# Few sequences of very different lengths: near t = 0, up to ten tokens are missing at once.
LONG_GAPS = Law(
    sequences=(
        (),
        (2,),
        (4, 3, 2),
        (2, 2, 3, 3, 4, 4, 2),
        (2, 3, 4, 2, 3, 4, 2, 3, 4),
        (4, 4, 4, 4, 4, 3, 3, 3, 3, 3),
    ),
    probs=(0.15, 0.1, 0.1, 0.15, 0.2, 0.3),
    vocabulary=Vocabulary(size=6, mask=5, end=0),
)

# Nothing, or a run of one token and then one of two others. Only the last slot's token is ever in
# doubt, and written one slot too early, it shows.
LONG_RUN = Law(
    sequences=((), (2,) * 12 + (3,), (2,) * 12 + (4,)),
    probs=(0.2, 0.5, 0.3),
    vocabulary=Vocabulary(size=6, mask=5, end=0),
)
