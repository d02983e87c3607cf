"""Attention by cuDNN's fused kernels, for batches of one sequence to a row."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from flexmdm_jax.attention.calls import ATTENTION_RESULTS, Call, sixteen_bits
from flexmdm_jax.errors import UserError, first_line

# More features only Hopper and later GPUs take; few heads are as large.
_LARGEST_HEAD = 128


def objection(call: Call) -> str:
    """Returns why cuDNN's kernels cannot do a call, and what they take; empty if they can."""
    if call.packed:
        return "takes rows of one segment and these hold several"
    if why := sixteen_bits(call):
        return why
    if call.head_size % 8 or call.head_size > _LARGEST_HEAD:
        return f"takes heads of 8, 16, … {_LARGEST_HEAD} features and these have {call.head_size}"
    return ""


def attention_cudnn(
    q: Float[Array, "b l h d"],
    k: Float[Array, "b l hk d"],
    v: Float[Array, "b l hk d"],
    segment_ids: Int[Array, "b l"],
) -> Float[Array, "b l h d"]:
    """Returns attention() of padded rows, by their lengths; NaN for rows of several segments.

    cuDNN is told lengths, not segments. Whoever says that rows are not packed and is wrong is told
    so by NaN: segments are known only when the program runs, too late for an error, and attention
    across segments must not pass for the real thing.

    Raises:
      UserError: If cuDNN cannot be loaded, which JAX asks for its version.
    """
    real = (segment_ids > 0)[:, :, None, None]
    lengths = real.sum(1, dtype=jnp.int32).reshape(-1)
    # A masked weight of 0 times a NaN in padding would still be NaN.
    q, k, v = (jnp.where(real, x, jnp.zeros_like(x)) for x in (q, k, v))
    out = _attend(q, k, v, lengths)
    packed = (segment_ids.max(1) > 1)[:, None, None, None]
    # A row without a single key is 0 / 0 in some versions; padding is 0 in any case.
    return jnp.where(packed, jnp.nan, jnp.where(real, out, 0)).astype(q.dtype)


def _by_lengths(q, k, v, lengths):
    try:
        return jax.nn.dot_product_attention(
            q,
            k,
            v,
            query_seq_lengths=lengths,
            key_value_seq_lengths=lengths,
            implementation="cudnn",
        )
    except RuntimeError as error:
        raise UserError(
            f"attention by cuDNN cannot be compiled ({first_line(error)}); install it "
            "with: pip install nvidia-cudnn-cu13 (0.5 GB), or choose 'xla' (config.model.attention)"
        ) from None


@jax.custom_vjp
def _attend(q, k, v, lengths):
    return _by_lengths(q, k, v, lengths)


def _attend_fwd(q, k, v, lengths):
    """Returns the output and the gradient's function, whose arrays are named for remat to keep.

    JAX names none of what its own rule keeps, and would run the forward kernel a second time.
    """
    out, gradients = jax.vjp(lambda q, k, v: _by_lengths(q, k, v, lengths), q, k, v)
    named = checkpoint_name(out, ATTENTION_RESULTS)

    def name(x):
        if x is out:
            return named
        given = any(x is y for y in (q, k, v, lengths))
        return x if given else checkpoint_name(x, ATTENTION_RESULTS)

    return named, jax.tree.map(name, gradients)


def _attend_bwd(gradients, grad):
    return *gradients(grad), None


_attend.defvjp(_attend_fwd, _attend_bwd)
