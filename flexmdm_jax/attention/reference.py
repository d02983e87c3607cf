"""Attention in plain XLA: runs anywhere, computes every pair of slots."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_LOWEST = jnp.finfo(jnp.float32).min


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
    same = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids > 0)[:, None, :]
    if causal:
        same &= jnp.tri(l, dtype=bool)[None]
    out = _attend(grouped, k, v, same).reshape(b, l, h, d)
    return jnp.where(real, out, 0)


@jax.custom_vjp
def _attend(
    q: Float[Array, "b l g n d"],
    k: Float[Array, "b l g d"],
    v: Float[Array, "b l g d"],
    same: Bool[Array, "b l l"],
) -> Float[Array, "b l g n d"]:
    return _forward(q, k, v, same)[0]


def _forward(q, k, v, same):
    """Returns the output and what the gradients need: weights are kept before they are divided."""
    scores = _product("bqgnd,bsgd->bgnqs", q, k)
    # A finite bias keeps the softmax of padding rows, which see nothing, free of NaN.
    scores = jnp.where(same[:, None, None], scores * q.shape[-1] ** -0.5, _LOWEST)
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    total = jnp.sum(weights, axis=-1).transpose(0, 3, 1, 2)[..., None]
    weights = weights.astype(v.dtype)
    out = (_product("bgnqs,bsgd->bqgnd", weights, v) / total).astype(v.dtype)
    return out, (q, k, v, weights, total, out)


def _backward(kept, gradient):
    """Returns the gradients of q, k and v, by FlashAttention's formula (Dao et al., 2022).

    Its sums over keys are products of an output with its gradient, an array of the size of q.
    """
    q, k, v, weights, total, out = kept
    gradient = (gradient / total).astype(v.dtype)
    delta = jnp.sum(gradient.astype(jnp.float32) * out, axis=-1).transpose(0, 2, 3, 1)
    by_weights = _product("bqgnd,bsgd->bgnqs", gradient, v)
    by_scores = weights * (by_weights - delta[..., None]) * q.shape[-1] ** -0.5
    by_scores = by_scores.astype(v.dtype)
    return (
        _product("bgnqs,bsgd->bqgnd", by_scores, k).astype(q.dtype),
        _product("bgnqs,bqgnd->bsgd", by_scores, q).astype(k.dtype),
        _product("bgnqs,bqgnd->bsgd", weights, gradient).astype(v.dtype),
        None,
    )


_attend.defvjp(_forward, _backward)


def _product(axes: str, x: Array, y: Array) -> Array:
    return jnp.einsum(axes, x, y, preferred_element_type=jnp.float32)
