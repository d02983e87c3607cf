"""What holds for a whole sequence, at each of its slots."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flexmdm_jax.chips import current_platform
from flexmdm_jax.types import per_slot


def spread(values: Float[Array, "b s d"], segment_ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
    """Returns each slot's entry of float32 features per segment, as per_slot() does.

    A TPU gathers and scatters row by row, which for the six modulations of a block would take as
    long as the block. There it is a product with ones and zeros, which fuses with what is done to
    its result; at padding it is then 0.
    """
    if values.shape[1] == 1 or current_platform() != "tpu":
        return per_slot(values, segment_ids)
    return _product(values, segment_ids)


def hold_several(per_segment: Float[Array, "b s ..."]) -> bool:
    """Returns whether rows may hold several segments, by how many have a value of their own."""
    return per_segment.shape[1] > 1


@jax.custom_vjp
def _product(values, segment_ids):
    return jnp.einsum(
        "bls,bsd->bld",
        _ones(segment_ids, values.shape[1], copies=2),
        jnp.concatenate(_halves(values), axis=1),
        preferred_element_type=jnp.float32,
    )


def _forward(values, segment_ids):
    return _product(values, segment_ids), (segment_ids, values.shape[1])


def _backward(kept, gradient):
    segment_ids, num_segments = kept
    ones = _ones(segment_ids, num_segments, copies=1)
    sums = (
        jnp.einsum("bls,bld->bsd", ones, half, preferred_element_type=jnp.float32)
        for half in _halves(gradient)
    )
    return sum(sums), None


_product.defvjp(_forward, _backward)


def _ones(segment_ids: Int[Array, "b l"], num_segments: int, copies: int) -> Array:
    """Returns [b, l, copies · s] with ones where a slot is of a segment."""
    numbers = jnp.tile(jnp.arange(1, num_segments + 1), copies)
    return (segment_ids[:, :, None] == numbers[None, None, :]).astype(jnp.bfloat16)


def _halves(x: Float[Array, "..."]) -> tuple[Array, Array]:
    """Returns two bfloat16 arrays whose sum is x within 2⁻¹⁷ of its size.

    The matrix unit multiplies bfloat16 numbers and adds up float32 ones.
    """
    high = x.astype(jnp.bfloat16)
    return high, (x - high.astype(x.dtype)).astype(jnp.bfloat16)
