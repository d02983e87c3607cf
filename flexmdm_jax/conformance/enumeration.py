"""Exact denoisers of short sequences, by enumeration of every labelled state.

A labelled state is a sequence of the support, the subset of its positions that are present and the
subset of those that are masked. Given x_t, the sequences behind it have posterior weight
p(x) · (1 - α)^missing, one term for each way to embed x_t in x. Collecting these terms by the
number of missing tokens gives, for each x_t, polynomials in 1 - α, tabulated once in float64.
"""

import functools
import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flexmdm_jax.conformance.laws import Law
from flexmdm_jax.types import Denoiser, Encoding, HostOrDevice, Vocabulary

# The limit from below at α = 1, which float32 may round to.
LEAST_SURVIVAL = 2.0**-26


def data_logits(
    hidden: Float[HostOrDevice, "*slots d"], tokens: tuple[int, ...], vocabulary: Vocabulary
) -> Float[Array, "*slots v"]:
    """Returns logits of the data tokens, one a feature; all other tokens are impossible."""
    logits = jnp.full((*hidden.shape[:-1], vocabulary.size), -jnp.inf)
    return logits.at[..., jnp.array(tokens)].set(hidden)


def _subsets(items):
    return itertools.chain.from_iterable(
        itertools.combinations(items, n) for n in range(len(items) + 1)
    )


class _States:
    """Numbers the partial sequences over some symbols, up to a length."""

    def __init__(self, symbols, max_length, vocabulary):
        self.base = len(symbols)
        self.max_length = max_length
        self.first = np.cumsum([0] + [self.base**n for n in range(max_length + 1)])
        self.number_of = np.full(vocabulary.size, -1)
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
    """Tabulates, per state and number of missing tokens: weight, weighted tokens, laws of gaps."""
    n, mask = law.max_length, law.vocabulary.mask
    states = _States((*law.tokens, mask), n, law.vocabulary)
    weight = np.zeros((states.count + 1, n + 1))
    tokens = np.zeros((states.count + 1, n + 1, n, len(law.tokens)))
    gaps = np.zeros((states.count + 1, n + 1, n + 1, n + 1))
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
                state = states.code([mask if i in masks else x[i] for i in kept])
                weight[state, missing] += p
                gaps[state, missing, range(len(gap)), gap] += p
                for slot, i in enumerate(kept):
                    tokens[state, missing, slot, law.tokens.index(x[i])] += p
    return states, weight, tokens, gaps


def flexmdm_oracle(law: Law, num_prefix: int = 0, num_suffix: int = 0) -> Denoiser:
    """Returns the exact denoiser; hidden features are the log posteriors of the data tokens.

    It knows the law of each gap besides its mean. Rows hold one sequence and its END; at padding
    everything is NaN, which nobody may look at. States the process cannot reach get a uniform
    posterior and no gaps. The tables have room for every partial sequence, so this is for few
    tokens and up to about five of them in a sequence.

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
        chance = jnp.maximum(1.0 - alpha, LEAST_SURVIVAL) ** jnp.arange(weight.shape[1])[None, :]
        total = jnp.sum(weight[code] * chance, axis=1)
        possible = (total > 0)[:, None]
        total = jnp.where(possible, total[:, None], 1.0)
        posterior = jnp.einsum("bmiv,bm->biv", tokens[code], chance) / total[:, :, None]
        of_gaps = jnp.einsum("bmig,bm->big", gaps[code], chance) / total[:, :, None]
        hidden = jnp.where(possible[:, :, None], jnp.log(posterior), 0.0)
        return _fit(hidden, of_gaps, real)

    return Denoiser(encode, lambda hidden: data_logits(hidden, law.tokens, law.vocabulary))


def _fit(hidden, law, real) -> Encoding:
    """Cuts or widens the oracle's slots to the row's, with NaN at padding."""

    def fit(x):
        length = real.shape[1]
        x = jnp.pad(x, ((0, 0), (0, length), (0, 0)))[:, :length]
        return jnp.where(real[:, :, None], x, jnp.nan)

    law, number = fit(law), jnp.arange(law.shape[2])[None, None, :]
    # Where the process cannot be, surely nothing is missing.
    law = jnp.where(jnp.sum(law, axis=2, keepdims=True) == 0, 1.0 * (number == 0), law)
    return Encoding(fit(hidden), jnp.sum(law * number, axis=2), jnp.log(law))


@functools.cache
def _mdm_tables(law: Law, length: int):
    mask, end = law.vocabulary.mask, law.vocabulary.end
    states = _States((*law.tokens, end, mask), length, law.vocabulary)
    tokens = np.zeros((states.count + 1, length, law.vocabulary.size))
    for x, p in zip(law.sequences, law.probs, strict=True):
        row = [*x, *[end] * (length - len(x))]
        for masks in _subsets(range(length)):
            state = states.code([mask if i in masks else row[i] for i in range(length)])
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
