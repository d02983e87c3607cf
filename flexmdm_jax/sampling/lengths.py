"""Length control: insertions conditioned on how many tokens are generated."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from flexmdm_jax.sampling.canvas import Canvas
from flexmdm_jax.sampling.state import Settings

# More tokens than any row has.
NO_LIMIT = 2**30


def still_missing(canvas: Canvas, settings: Settings) -> tuple[Int[Array, "b"], Int[Array, "b"]]:
    """Returns how many tokens a row still misses at least and at most, by the lengths asked for."""
    generated = jnp.sum(canvas.real & ~canvas.fixed, axis=1)
    least, most = settings.min_length - generated, settings.max_length - generated
    return jnp.maximum(least, 0), jnp.maximum(most, 0)


def scaled_gaps(
    gaps: Float[Array, "b l"],
    is_open: Bool[Array, "b l"],
    least: Int[Array, "b"],
    most: Int[Array, "b"],
) -> Float[Array, "b l"]:
    """Returns gaps whose sum lies between least and most, in proportion as they were.

    Given how many tokens a row has in the end, the next one goes to gap i with a chance in
    proportion to its expected number of missing tokens, and each missing one is inserted with the
    chance of the leap. That is exact if the expectations are conditioned on the total, too; a
    network's are not, so the tokens of the row follow the law of texts of that length nearly only.

    Args:
      gaps: Expected number of tokens missing before each slot.
      is_open: Where something may be inserted; where all gaps of a row are 0, it is there alike.
      least: Tokens still missing at least.
      most: Tokens still missing at most.
    """
    total = jnp.sum(gaps, axis=1, keepdims=True)
    # Without any expectation one place is as good as another.
    gaps = jnp.where(total > 0, gaps, is_open.astype(gaps.dtype))
    wanted = jnp.clip(total, least[:, None], most[:, None])
    total = jnp.where(total > 0, total, jnp.maximum(jnp.sum(is_open, axis=1, keepdims=True), 1))
    # Rows within the limits keep their gaps to the last bit.
    return jnp.where(wanted == total, gaps, gaps / total * wanted)
