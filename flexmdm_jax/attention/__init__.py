"""Attention within segments, with a choice of backends."""

import functools
import logging

from jaxtyping import Array, Float, Int

from flexmdm_jax.attention.backends import BACKENDS, DEFAULTS, Backend
from flexmdm_jax.attention.checks import check_inputs
from flexmdm_jax.attention.pallas_tpu import ATTENTION_RESULTS as ATTENTION_RESULTS
from flexmdm_jax.chips import current_platform

logger = logging.getLogger(__name__)


def attention(
    q: Float[Array, "b l h d"],
    k: Float[Array, "b l hk d"],
    v: Float[Array, "b l hk d"],
    segment_ids: Int[Array, "b l"],
    *,
    causal: bool = False,
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
      implementation: One of BACKENDS; None lets the platform decide (DEFAULTS), and takes "xla" if
        causal, which no other has.

    Raises:
      ValueError: If an argument does not fit the others, or the implementation is unknown or
        cannot run on this platform.
    """
    check_inputs(q, k, v, segment_ids)
    platform = current_platform()
    name = implementation or ("xla" if causal else DEFAULTS.get(platform, "xla"))
    backend = find_backend(name, platform)
    _announce(name, platform, chosen=implementation is not None)
    if not causal:
        return backend.attend(q, k, v, segment_ids)
    if backend.attend_causal is None:
        raise ValueError(
            f"attention implementation {name!r} always sees both ways; choose 'xla' if causal"
        )
    return backend.attend_causal(q, k, v, segment_ids)


def find_backend(name: str, platform: str) -> Backend:
    """Returns the backend of a name.

    Raises:
      ValueError: If there is none, or it cannot run on the platform.
    """
    if name not in BACKENDS:
        raise ValueError(
            f"unknown attention implementation {name!r}; choose one of {', '.join(BACKENDS)}"
        )
    backend = BACKENDS[name]
    if backend.platforms and platform not in backend.platforms:
        raise ValueError(
            f"attention implementation {name!r} runs on {' or '.join(backend.platforms)} only and "
            f"this program is for {platform}; {backend.advice}"
        )
    return backend


@functools.cache
def _announce(name: str, platform: str, chosen: bool):
    """Logs once which backend runs."""
    logger.info("attention: %s on %s (%s)", name, platform, "chosen" if chosen else "default")
