"""Hidden Markov models of sequences that end, and their exact denoisers by dynamic programming.

States know their place in the sequence. A path through a model from its start to one of its ends
is a sequence with its hidden states; x_t leaves out some of its places, each of which weighs 1 - α.
As many are left out as the sequence is longer than x_t, so 1 - α enters where a path ends and
nowhere else, and sums over the places between two present slots are constant matrices.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flexmdm_jax.conformance.enumeration import LEAST_SURVIVAL, data_logits
from flexmdm_jax.conformance.laws import Law
from flexmdm_jax.types import Denoiser, Encoding, Vocabulary


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """A hidden Markov model whose states know their place, so that every sequence ends.

    Attributes:
      vocabulary: Ids of MASK and END.
      tokens: Ids of the data tokens, one a column of emission.
      place: How many tokens there are up to the state's own; 1 at the first.
      empty: The chance of the empty sequence.
      start: The chance to begin in each state.
      step: The chance to go from a state (row) to another, which has the next place.
      stop: The chance that the state's token is the last.
      emission: The chance of each token (column) in each state.
    """

    vocabulary: Vocabulary
    tokens: tuple[int, ...]
    place: Int[np.ndarray, "k"]
    empty: float
    start: Float[np.ndarray, "k"]
    step: Float[np.ndarray, "k k"]
    stop: Float[np.ndarray, "k"]
    emission: Float[np.ndarray, "k v"]

    @property
    def max_length(self) -> int:
        """Returns the length of the longest sequence."""
        return int(self.place.max())

    def law(self) -> Law:
        """Returns the law of the sequences, by following every prefix that can be."""
        found, open_prefixes = {(): self.empty}, {(): self.start}
        while open_prefixes:
            longer = {}
            for prefix, arrival in open_prefixes.items():
                for column, token in enumerate(self.tokens):
                    forward = arrival * self.emission[:, column]
                    if forward.any():
                        found[(*prefix, token)] = forward @ self.stop
                        longer[(*prefix, token)] = forward @ self.step
            open_prefixes = {x: arrival for x, arrival in longer.items() if arrival.any()}
        possible = {x: float(p) for x, p in found.items() if p > 0}
        return Law(tuple(possible), tuple(possible.values()), self.vocabulary)

    @classmethod
    def of(cls, law: Law) -> "Chain":
        """Returns a model of a law's sequences: each has states of its own and emits surely."""
        lengths = [len(x) for x in law.sequences]
        last = np.cumsum(lengths)
        place = np.concatenate([np.arange(1, n + 1) for n in lengths])
        start = np.zeros(len(place))
        stop = np.zeros(len(place))
        for end, n, p in zip(last, lengths, law.probs, strict=True):
            if n:
                start[end - n] = p
                stop[end - 1] = 1.0
        step = np.diag((1.0 - stop)[:-1], k=1)
        emitted = np.array([v for x in law.sequences for v in x])
        emission = (emitted[:, None] == np.array(law.tokens)[None, :]).astype(float)
        empty = dict(zip(law.sequences, law.probs, strict=True)).get((), 0.0)
        return cls(law.vocabulary, law.tokens, place, empty, start, step, stop, emission)


def hidden_words() -> Chain:
    """Returns a model of words of 0, 4, 8 or 12 tokens whose two hidden moods share a token.

    One mood alternates two tokens; the other repeats the second of them, with a slip now and then
    where the first would tell the moods apart. Either seldom gives way to the other.
    """
    longest, moods = 12, 2
    place = np.repeat(np.arange(1, longest + 1), moods)
    stop = np.where(place == longest, 1.0, np.where(place % 4 == 0, 0.3, 0.0))
    change = np.array([[0.93, 0.07], [0.03, 0.97]])
    step = np.kron(np.eye(longest, k=1), change) * (1.0 - stop)[:, None]
    start = np.zeros(longest * moods)
    start[:moods] = [0.5, 0.4]
    odd, even = np.array([[1, 0, 0], [0, 0.95, 0.05]]), np.array([[0, 1, 0], [0, 1, 0]])
    emission = np.concatenate([odd, even] * (longest // 2)).astype(float)
    vocabulary = Vocabulary(size=7, mask=0, end=6)
    return Chain(vocabulary, (1, 3, 4), place, 0.1, start, step, stop, emission)


@dataclasses.dataclass(frozen=True, eq=False)
class _Paths:
    """A chain with an end state for each length, and sums over all paths of missing tokens.

    `start` and `step` lead to the next place; `reach` from there to the next one that is present;
    `missed` is reach, each path times the number of places it passes over.
    """

    start: Float[np.ndarray, "k"]
    step: Float[np.ndarray, "k k"]
    reach: Float[np.ndarray, "k k"]
    missed: Float[np.ndarray, "k k"]

    @classmethod
    def of(cls, chain: Chain) -> "_Paths":
        ends = chain.max_length + 1
        to_end = np.eye(ends)[chain.place] * chain.stop[:, None]
        step = np.concatenate([chain.step, to_end], axis=1)
        step = np.concatenate([step, np.zeros((ends, step.shape[1]))])
        empty = np.eye(ends)[0] * chain.empty
        # Sums of powers, not an inverse, whose rounding would make the impossible possible.
        powers = [np.eye(len(step))]
        for _ in range(ends):
            powers.append(powers[-1] @ step)
        missed = sum(n * power for n, power in enumerate(powers))
        return cls(np.concatenate([chain.start, empty]), step, sum(powers), missed)


def chain_oracle(chain: Chain) -> Denoiser:
    """Returns the exact denoiser; hidden features are the log posteriors of the data tokens.

    Rows hold one sequence and its END; at padding everything is NaN, which nobody may look at.
    States the process cannot reach get a uniform posterior and no gaps. The work for a slot is a
    few products with a matrix of states by states, whatever the number of partial sequences.
    """
    paths, num_states = _Paths.of(chain), len(chain.place)
    emission, says = jnp.asarray(chain.emission, jnp.float32), _evidence(chain)
    at_end = jnp.asarray(np.arange(len(paths.start)) >= num_states, jnp.float32)
    column_of = np.full(chain.vocabulary.size, len(chain.tokens))
    column_of[list(chain.tokens)] = np.arange(len(chain.tokens))

    def encode(x, segment_ids, alpha):
        real = segment_ids > 0
        is_end = jnp.arange(x.shape[1])[None, :] == jnp.sum(real, axis=1, keepdims=True) - 1
        seen = jnp.where(is_end[:, :, None], at_end[None, None, :], says[x]).swapaxes(0, 1)
        reached, missed, after, total = _messages(paths, seen, is_end, alpha, num_states)
        possible = (total > 0)[:, None]
        total = jnp.where(possible, total[:, None], 1.0)
        gaps = jnp.einsum("lbk,lbk->bl", missed, seen * after) / total
        columns = jnp.arange(len(chain.tokens))[None, None, :]
        allowed = jnp.asarray(column_of)[x][:, :, None] == columns
        allowed |= (x == chain.vocabulary.mask)[:, :, None]
        weights = ((reached * after)[:, :, :num_states] @ emission).swapaxes(0, 1) * allowed
        hidden = jnp.where(possible[:, :, None], jnp.log(weights / total[:, :, None]), 0.0)
        return Encoding(
            hidden=jnp.where(real[:, :, None], hidden, jnp.nan),
            gaps=jnp.where(real, jnp.where(possible, gaps, 0.0), jnp.nan),
        )

    return Denoiser(encode, lambda hidden: data_logits(hidden, chain.tokens, chain.vocabulary))


def _evidence(chain: Chain) -> Float[Array, "v k"]:
    """Returns what each token says of the states: its chance, 1 for MASK, 0 for other tokens."""
    says = np.zeros((chain.vocabulary.size, len(chain.place)))
    says[list(chain.tokens)] = chain.emission.T
    says[chain.vocabulary.mask] = 1.0
    return jnp.asarray(np.pad(says, ((0, 0), (0, chain.max_length + 1))), jnp.float32)


def _messages(paths: _Paths, seen, is_end, alpha, num_states: int):
    """Returns the sums over paths up to each slot, and from it on (forward-backward).

    Args:
      paths: Of the chain.
      seen: What each slot says of the states, [l, b, k].
      is_end: Where the sequences' END is, [b, l].
      alpha: [b, 1].
      num_states: States of the chain; behind them come the ends.

    Returns:
      The weights to come to each state at a slot; the same, each path times the places it passes
      over since the slot before; the weights of all that follows; and the total weight, [b].
    """
    start, step, reach, missed, onward = (
        jnp.asarray(x, jnp.float32)
        for x in (paths.start, paths.step, paths.reach, paths.missed, paths.step @ paths.reach)
    )

    def forward(arrival, seen):
        reached = arrival @ reach
        return (reached * seen) @ step, (arrival, reached)

    def backward(later, slot):
        seen, is_end, closing = slot
        after = jnp.where(is_end[:, None], closing, later @ onward.T)
        return seen * after, after

    start = jnp.broadcast_to(start, (is_end.shape[0], len(start)))
    _, (arrivals, reached) = jax.lax.scan(forward, start, seen)
    last = jnp.einsum("lbk,bl->bk", reached * seen, is_end.astype(jnp.float32))
    closing, total = _closing(last, alpha, num_states)
    # Padding comes first here, and what is said of it is overwritten at END.
    slots = (seen, is_end.T, jnp.broadcast_to(closing, seen.shape))
    _, after = jax.lax.scan(backward, jnp.zeros_like(closing), slots, reverse=True)
    return reached, arrivals @ missed, after, total


def _closing(last, alpha, num_states: int):
    """Returns ((1 - α)^missing at each end, [b, k]; the total weight, [b]).

    Counted from the fewest tokens that may be missing, which takes nothing from their ratios and
    keeps high powers out of float32's smallest numbers.
    """
    length = jnp.arange(last.shape[1]) - num_states
    possible = last > 0
    fewest = jnp.argmax(possible, axis=1) - num_states
    extra = length[None, :] - fewest[:, None]
    power = jnp.maximum(1.0 - alpha, LEAST_SURVIVAL) ** jnp.maximum(extra, 0)
    closing = jnp.where(possible, power, 0.0)
    return closing, jnp.sum(last * closing, axis=1)
