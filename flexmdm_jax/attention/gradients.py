"""The gradient of attention whose forward and backward pass are kernels."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from flexmdm_jax.attention.calls import ATTENTION_RESULTS


def differentiable(forward: Callable, backward: Callable) -> Callable:
    """Returns attend(call, q, k, v, bounds) -> output, differentiable in q, k and v.

    What the backward pass takes of the forward one is named, so that remat can keep it.

    Args:
      forward: (call, q, k, v, bounds) -> (output, log-sum-exp); call is static and hashable.
      backward: (call, q, k, v, bounds, output, log-sum-exp, gradient) -> (dq, dk, dv).
    """

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def attend(call: Any, q, k, v, bounds):
        return forward(call, q, k, v, bounds)[0]

    def attend_fwd(call, q, k, v, bounds):
        out, lse = (checkpoint_name(x, ATTENTION_RESULTS) for x in forward(call, q, k, v, bounds))
        return out, (q, k, v, bounds, out, lse)

    def attend_bwd(call, residuals, grad):
        return *backward(call, *residuals, grad), None

    attend.defvjp(attend_fwd, attend_bwd)
    return attend
