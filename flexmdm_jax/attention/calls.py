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


def sixteen_bits(call: Call) -> str:
    """Returns why kernels for numbers of 16 bits cannot do a call; empty if they can."""
    if call.dtype in (jnp.float16, jnp.bfloat16):
        return ""
    return f"takes float16 and bfloat16 and q is {call.dtype}"
