"""Laws whose exact denoiser is a formula: a large vocabulary, and a word far too long."""

import itertools
import math

import jax.numpy as jnp
import numpy as np

from flexmdm_jax.conformance.enumeration import LEAST_SURVIVAL
from flexmdm_jax.conformance.laws import Law
from flexmdm_jax.types import Denoiser, Encoding, Vocabulary

LARGE_VOCABULARY = Vocabulary(size=2**17, mask=3, end=4)
_HEAD = {0: 0.6, 1: 0.3, 2: 0.1}
_TAIL, _CHANCE_IN_TAIL = 5, 1e-7
_LENGTHS = (0.05, 0.85, 0.1)


def _token_probs() -> dict[int, float]:
    """Returns the chances of the head's tokens, and of all the tail under its first id."""
    tail = _CHANCE_IN_TAIL * (LARGE_VOCABULARY.size - _TAIL)
    return {**{v: p * (1 - tail) for v, p in _HEAD.items()}, _TAIL: tail}


def large_vocabulary() -> Law:
    """Returns the law of up to two independent tokens, a hundredth of which are rare ones.

    Three tokens are common. The other 131,067 have a chance of 1e-7 each, 1.3 % together, and are
    judged as one: noise of 23 bits, as float32 holds between 1/2 and 1, draws half as many.
    """
    probs = {}
    for length, chance in enumerate(_LENGTHS):
        for x in itertools.product(_token_probs().items(), repeat=length):
            probs[tuple(v for v, _ in x)] = chance * math.prod(p for _, p in x)
    return Law(tuple(probs), tuple(probs.values()), LARGE_VOCABULARY, tail=_TAIL)


def large_vocabulary_oracle() -> Denoiser:
    """Returns the exact denoiser of large_vocabulary(); at padding everything is NaN.

    Tokens are independent of each other and of the length, so f is the same everywhere, and what is
    missing is spread evenly over the gaps. With k tokens present, a length of k + m has weight
    p(k + m) · (k + m choose k) · (1 - α)^m.
    """
    longest = len(_LENGTHS) - 1
    weight = np.zeros((longest + 2, longest + 1))
    for present, missing in itertools.product(range(longest + 1), repeat=2):
        if present + missing <= longest:
            ways = math.comb(present + missing, present)
            weight[present, missing] = _LENGTHS[present + missing] * ways
    weight = jnp.asarray(weight, jnp.float32)
    logits = np.full(LARGE_VOCABULARY.size, -np.inf)
    for v, p in _token_probs().items():
        logits[v] = math.log(p)
    logits[_TAIL:] = math.log(_CHANCE_IN_TAIL)
    logits = jnp.asarray(logits, jnp.float32)

    def encode(x, segment_ids, alpha):
        present = jnp.sum(segment_ids > 0, axis=1) - 1
        missing = jnp.arange(weight.shape[1])[None, :]
        chance = jnp.maximum(1.0 - alpha, LEAST_SURVIVAL) ** missing
        posterior = weight[jnp.minimum(present, longest + 1)] * chance
        total = jnp.sum(posterior, axis=1)
        expected = jnp.sum(posterior * missing, axis=1) / jnp.where(total > 0, total, 1.0)
        return _even(expected, present, segment_ids)

    def decode(hidden):
        shape = (*hidden.shape[:-1], LARGE_VOCABULARY.size)
        return jnp.broadcast_to(logits.reshape((1,) * (hidden.ndim - 1) + (-1,)), shape)

    return Denoiser(encode, decode)


def long_word(length: int) -> Law:
    """Returns what is left of a word of 1,024 equal tokens in a buffer of that many slots.

    Samplers keep the insertions that fit, so every row comes back full. One that drops a whole
    step's insertions, because they do not all fit, never gets there.
    """
    return Law((((2,) * (length - 1)),), (1.0,), Vocabulary(size=3, mask=0, end=1))


def long_word_oracle(num_tokens: int = 1024) -> Denoiser:
    """Returns the exact denoiser of a word of equal tokens; at padding everything is NaN."""

    def encode(x, segment_ids, alpha):
        present = jnp.sum(segment_ids > 0, axis=1) - 1
        return _even((num_tokens - present).astype(jnp.float32), present, segment_ids)

    def decode(hidden):
        logits = jnp.asarray([-jnp.inf, -jnp.inf, 0.0])
        shape = (*hidden.shape[:-1], 3)
        return jnp.broadcast_to(logits.reshape((1,) * (hidden.ndim - 1) + (3,)), shape)

    return Denoiser(encode, decode)


def _even(expected, present, segment_ids) -> Encoding:
    """Returns what is expected to be missing, spread evenly over the gaps; hidden says nothing."""
    real = segment_ids > 0
    gaps = (expected / (present + 1))[:, None]
    hidden = jnp.where(real, 0.0, jnp.nan)[:, :, None]
    return Encoding(hidden=hidden, gaps=jnp.where(real, gaps, jnp.nan))
