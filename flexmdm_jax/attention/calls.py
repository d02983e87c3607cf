"""What of a call of attention() decides which backend can do it."""

import dataclasses

import jax.numpy as jnp

# What a policy of jax.checkpoint has to save, so that a forward kernel is not run again.
ATTENTION_RESULTS = "attention_results"


@dataclasses.dataclass(frozen=True)
class Call:
    """A call, as far as it is known before anything is traced.

    Attributes:
      dtype: Of q, k and v.
      head_size: Features of a head.
      packed: Whether rows may hold several segments.
      causal: Whether slots see only what stands before them.
      device_kind: What JAX calls the devices, "NVIDIA H100 80GB HBM3" for example.
    """

    dtype: jnp.dtype
    head_size: int
    packed: bool
    causal: bool = False
    device_kind: str = ""
