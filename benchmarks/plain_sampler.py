"""The paper's sampler written down as it reads: every slot, every token, every step.

What public code of it does: the canvas has its full length throughout, the vocabulary head runs on
every slot, a Poisson number is drawn for every token of every slot, and steps are equal. Kept for
comparison; a test shows that it samples the law.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from flexmdm_jax.posterior import posterior_logits
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import Canvas, insert_masks
from flexmdm_jax.types import Denoiser


def plain_step(
    key: Key[Array, ""],
    denoiser: Denoiser,
    canvas: Canvas,
    process: Process,
    number: Int[Array, ""],
    steps: Int[Array, ""],
) -> Canvas:
    """Returns the canvas after one of the steps (Algorithm 1, Subroutine 2).

    Args:
      key: Of the step.
      denoiser: The network.
      canvas: Rows.
      process: What it was trained on.
      number: Steps before this one.
      steps: Steps in all; the last inserts nothing and unmasks the likeliest.
    """
    unmask_key, insert_key = jax.random.split(key)
    t, t_next = (number / steps).astype(jnp.float32), ((number + 1) / steps).astype(jnp.float32)
    last = number + 1 == steps
    alpha = jnp.broadcast_to(process.insertion.at(t), (canvas.tokens.shape[0], 1))
    encoding = denoiser.encode(canvas.tokens, canvas.segment_ids, alpha)
    masked = canvas.masks(process.vocabulary)
    probability = jax.nn.softmax(posterior_logits(denoiser, encoding.hidden, process))
    rate = process.unmasking.hazard(t) * (t_next - t)
    events = jax.random.poisson(unmask_key, rate * probability)
    token = jnp.where(last, jnp.argmax(probability, axis=-1), jnp.argmax(events, axis=-1))
    happens = masked & (last | (jnp.sum(events, axis=-1) == 1))
    canvas = canvas.replace(tokens=jnp.where(happens, token, canvas.tokens))
    gaps = jnp.where(canvas.open & ~last, encoding.gaps, 0.0)
    counts = jax.random.poisson(insert_key, process.insertion.hazard(t) * (t_next - t) * gaps)
    # What does not fit is dropped from the right.
    before = jnp.cumsum(counts, axis=1) - counts
    counts = jnp.clip(counts, 0, jnp.maximum(canvas.room[:, None] - before, 0))
    return insert_masks(canvas, counts, process.vocabulary)


def plain_sampler(
    key: Key[Array, ""], denoiser: Denoiser, canvas: Canvas, process: Process, steps: int
) -> Canvas:
    """Returns the finished canvas after so many equal steps."""
    keys = jax.random.split(key, steps)

    def step(canvas, inputs):
        number, key = inputs
        return plain_step(key, denoiser, canvas, process, number, jnp.int32(steps)), None

    return jax.lax.scan(step, canvas, (jnp.arange(steps), keys))[0]
