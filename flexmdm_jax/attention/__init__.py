"""Attention within segments, with a choice of backends."""

import functools
import logging

from jaxtyping import Array, Float, Int

from flexmdm_jax.attention.backends import BACKENDS, Choice, choose_backend
from flexmdm_jax.attention.calls import ATTENTION_RESULTS as ATTENTION_RESULTS
from flexmdm_jax.attention.calls import Call as Call
from flexmdm_jax.attention.checks import check_inputs
from flexmdm_jax.chips import current_device_kind, current_platform

logger = logging.getLogger(__name__)


def attention(
    q: Float[Array, "b l h d"],
    k: Float[Array, "b l hk d"],
    v: Float[Array, "b l hk d"],
    segment_ids: Int[Array, "b l"],
    *,
    causal: bool = False,
    packed: bool = True,
    implementation: str | None = None,
) -> Float[Array, "b l h d"]:
    """Returns softmax(q kᵀ / √d) v within each segment, and exactly 0 at padding.

    Args:
      q: Queries.
      k: Keys; hk must divide h (grouped-query attention).
      v: Values.
      segment_ids: 0 at padding, which ends the row, and ascending before it; slots attend to the
        slots of their own segment only.
      causal: Slots attend to themselves and to what stands before them only.
      packed: Whether rows may hold several segments. False is a promise that none does, which lets
        a GPU take cuDNN's kernels; they answer NaN where it is not kept.
      implementation: One of BACKENDS; None lets the platform decide (DEFAULTS).

    Raises:
      ValueError: If an argument does not fit the others, or the implementation is unknown or
        cannot do this call on this platform.
    """
    check_inputs(q, k, v, segment_ids)
    platform = current_platform()
    call = Call(q.dtype, q.shape[-1], packed, causal, current_device_kind())
    choice = choose_backend(implementation, platform, call)
    if implementation is None:
        _announce(choice, platform)
    backend = BACKENDS[choice.name]
    return (backend.attend_causal if causal else backend.attend)(q, k, v, segment_ids)


@functools.cache
def _announce(choice: Choice, platform: str):
    """Logs once which backend the platform chose, and why no faster one."""
    why = f" ({'; '.join(choice.passed_over)})" if choice.passed_over else ""
    # Plain XLA where there is something better is what its user wants to know of.
    level = logging.WARNING if choice.passed_over and choice.name == "xla" else logging.INFO
    logger.log(level, "attention: %s on %s%s", choice.name, platform, why)
