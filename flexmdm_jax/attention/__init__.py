"""Bidirectional attention within segments, with a choice of backends."""

from collections.abc import Callable

from jaxtyping import Array, Float, Int

from flexmdm_jax.attention.reference import attention_xla

BACKENDS: dict[str, Callable] = {"xla": attention_xla}


def attention(
    q: Float[Array, "b l h d"],
    k: Float[Array, "b l hk d"],
    v: Float[Array, "b l hk d"],
    segment_ids: Int[Array, "b l"],
    *,
    implementation: str | None = None,
) -> Float[Array, "b l h d"]:
    """Returns softmax(q kᵀ / √d) v within each segment, and exactly 0 at padding.

    Args:
      q: Queries.
      k: Keys; hk must divide h (grouped-query attention).
      v: Values.
      segment_ids: 0 at padding; slots attend to the slots of their own segment only.
      implementation: One of BACKENDS; None lets the platform decide.

    Raises:
      ValueError: If the implementation is unknown.
    """
    name = implementation or "xla"
    if name not in BACKENDS:
        raise ValueError(f"unknown attention {name!r}; choose one of {', '.join(BACKENDS)}")
    return BACKENDS[name](q, k, v, segment_ids)
