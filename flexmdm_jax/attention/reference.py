"""Attention in plain XLA: runs anywhere, computes every pair of slots."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def attention_xla(
    q: Float[Array, "b l h d"],
    k: Float[Array, "b l hk d"],
    v: Float[Array, "b l hk d"],
    segment_ids: Int[Array, "b l"],
    causal: bool = False,
) -> Float[Array, "b l h d"]:
    """Returns attention() with the softmax in float32, whatever the inputs' type."""
    b, l, h, d = q.shape
    real = (segment_ids > 0)[:, :, None, None]
    # Weight 0 times a NaN in padding would still be NaN, here and in the gradients.
    q, k, v = (jnp.where(real, x, 0) for x in (q, k, v))
    grouped = q.reshape(b, l, k.shape[2], -1, d)
    scores = jnp.einsum("bqkgd,bskd->bkgqs", grouped, k, preferred_element_type=jnp.float32)
    same = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids > 0)[:, None, :]
    if causal:
        same &= jnp.tri(l, dtype=bool)[None]
    # A finite bias keeps the softmax of padding rows, which see nothing, free of NaN.
    scores = jnp.where(same[:, None, None], scores * d**-0.5, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bkgqs,bskd->bqkgd", weights, v).reshape(b, l, h, d)
    return jnp.where(real, out, 0)
