"""Attention by cuDNN's fused kernels, for batches of one sequence to a row."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def attention_cudnn(
    q: Float[Array, "b l h d"],
    k: Float[Array, "b l hk d"],
    v: Float[Array, "b l hk d"],
    segment_ids: Int[Array, "b l"],
) -> Float[Array, "b l h d"]:
    """Returns attention() of padded rows, by their lengths; NaN for rows of several segments.

    cuDNN is told lengths, not segments. Segments are known only when the program runs, too late
    for an error, and attention across segments must not pass for the real thing.

    Raises:
      ValueError: If the arrays are neither float16 nor bfloat16, which cuDNN asks for.
    """
    if q.dtype not in (jnp.float16, jnp.bfloat16):
        raise ValueError(
            f"the cudnn attention takes float16 and bfloat16, q is {q.dtype}; "
            "cast it or choose implementation='xla'"
        )
    real = (segment_ids > 0)[:, :, None, None]
    lengths = real.sum(1, dtype=jnp.int32).reshape(-1)
    # A masked weight of 0 times a NaN in padding would still be NaN.
    q, k, v = (jnp.where(real, x, jnp.zeros_like(x)) for x in (q, k, v))
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    packed = (segment_ids.max(1) > 1)[:, None, None, None]
    # A row without a single key is 0 / 0 in some versions; padding is 0 in any case.
    return jnp.where(packed, jnp.nan, jnp.where(real, out, 0)).astype(q.dtype)
