"""What a causal network says of rows of tokens: how likely each is, and what it makes of them."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Shorter rows are padded to so many slots: a program of their own would save little.
_SHORTEST = 16


def padded_length(length: int, longest: int) -> int:
    """Returns the next power of two, at most the longest: a few programs serve all lengths."""
    return min(max(1 << (length - 1).bit_length(), _SHORTEST), longest)


def padded(
    rows: Sequence[Sequence[int] | np.ndarray], num_rows: int, length: int
) -> tuple[Int[np.ndarray, "b l"], Int[np.ndarray, "b l"]]:
    """Returns (tokens, segment ids) of rows that padding fills."""
    tokens = np.zeros((num_rows, length), np.int32)
    segment_ids = np.zeros((num_rows, length), np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
        segment_ids[number, : len(row)] = 1
    return tokens, segment_ids


def token_nats(
    model: Any,
    mask: int,
    params: Any,
    tokens: Int[Array, "b l"],
    segment_ids: Int[Array, "b l"],
) -> Float[Array, "b k"]:
    """Returns -log p of each slot but the first, k = l - 1; that of padding means nothing.

    Args:
      model: The network, with encode() and decode() as LLaDA has them.
      mask: Id of MASK, which has probability zero; an id without a row is none.
      params: Its parameters.
      tokens: One sequence a row.
      segment_ids: 0 at the padding behind it.
    """
    hidden = _hidden(model, params, tokens, segment_ids)

    def of_row(row):
        features, following = row
        logits = _logits(model, mask, params, features)
        chosen = jnp.take_along_axis(logits, following[:, None], axis=-1)[:, 0]
        return jax.nn.logsumexp(logits, axis=-1) - chosen

    # A row's logits at a time.
    return jax.lax.map(of_row, (hidden[:, :-1], tokens[:, 1:]))


def last_features(
    model: Any, params: Any, tokens: Int[Array, "b l"], segment_ids: Int[Array, "b l"]
) -> Float[Array, "b d"]:
    """Returns what decode() is given of each row's last token; arguments as of token_nats()."""
    hidden = _hidden(model, params, tokens, segment_ids)
    last = jnp.maximum(jnp.sum(segment_ids, axis=1) - 1, 0)
    return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def likeliest_next(
    model: Any,
    mask: int,
    params: Any,
    tokens: Int[Array, "b l"],
    segment_ids: Int[Array, "b l"],
) -> Int[Array, "b"]:
    """Returns the likeliest token behind each row; arguments as of token_nats()."""
    last = last_features(model, params, tokens, segment_ids)
    return jnp.argmax(_logits(model, mask, params, last), axis=-1)


def _hidden(model, params, tokens, segment_ids):
    alpha = jnp.zeros((len(tokens), 1))
    return model.apply({"params": params}, tokens, segment_ids, alpha, method="encode").hidden


def _logits(model, mask, params, features):
    logits = model.apply({"params": params}, features, method="decode")
    # A model that knows no MASK has no such row.
    return logits.at[:, mask].set(-jnp.inf, mode="drop")
