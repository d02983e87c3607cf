"""Samplers on denoisers without parameters, compiled once for all samplers of a kind."""

import functools

import jax
from effort import OPTIMISED

from flexmdm_jax.sampling import generate


@functools.cache
def program(kinds, denoiser, process, trace=0):
    """Returns generate(), jitted, of (keys, canvas, settings); kinds is SamplerConfig.kinds."""
    return jax.jit(
        lambda keys, canvas, settings: generate(
            keys, denoiser, canvas, kinds, process, settings=settings, trace=trace
        ),
        compiler_options=OPTIMISED if trace else None,
    )
