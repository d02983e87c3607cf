"""The unmasking posterior f, evaluated only at the slots that need it.

The vocabulary head is most of a small model's cost and its logits are the largest array of all, so
no [b, l, vocabulary] array is ever made: chosen slots are gathered and worked off in chunks.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from flexmdm_jax.schedules import Schedule
from flexmdm_jax.types import Denoiser, Vocabulary


def posterior_logits(
    denoiser: Denoiser,
    hidden: Float[Array, "*slots d"],
    *,
    insertion: Schedule,
    vocabulary: Vocabulary,
) -> Float[Array, "*slots v"]:
    """Returns float32 logits of f, with -inf on tokens that no masked slot can hide.

    That is MASK, and END too when lengths are learned by insertion (it is never masked then); MDM
    predicts its END padding like any token.
    """
    logits = denoiser.decode(hidden).astype(jnp.float32)
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    impossible = ids == vocabulary.mask
    if insertion.inserts:
        impossible |= ids == vocabulary.end
    return jnp.where(impossible, -jnp.inf, logits)


def map_slots(
    fn: Callable[[PyTree], PyTree],
    chosen: Bool[Array, "b l"],
    arrays: PyTree[Array],
    *,
    chunk_size: int = 1024,
    num_groups: int = 1,
) -> PyTree[Array]:
    """Returns fn's results [b, l, ...] at the chosen slots, zeros elsewhere.

    Chosen slots are moved to the front and fn runs on chunk_size of them at a time, only as often
    as there are chosen slots left; its intermediate results (logits) are recomputed in the
    backward pass instead of being kept.

    Args:
      fn: Takes the arrays' rows for n slots, [num_groups, n, ...], and returns per-slot results;
        a last chunk that is not full is filled up with zeros.
      chosen: Slots to run fn on.
      arrays: Inputs of fn for every slot, [b, l, ...].
      chunk_size: Slots per group that fn sees at once; bounds the memory for logits.
      num_groups: Groups of rows worked off side by side. With as many groups as devices share the
        batch, gathering stays within each device. Must divide b.
    """
    b, l = chosen.shape
    chosen = chosen.reshape(num_groups, -1)
    num_slots = chosen.shape[1]
    chunk_size = min(chunk_size, num_slots)
    num_chunks = -(-num_slots // chunk_size)
    order = jnp.argsort(~chosen, axis=1, stable=True)
    count = jnp.sum(chosen, axis=1, keepdims=True)
    source = jnp.pad(order, ((0, 0), (0, num_chunks * chunk_size - num_slots)))
    wanted = jnp.arange(num_chunks * chunk_size)[None, :] < count

    def gather(x):
        x = x.reshape(num_groups, num_slots, *x.shape[2:])
        trailing = (1,) * (x.ndim - 2)
        x = jnp.take_along_axis(x, source.reshape(*source.shape, *trailing), axis=1)
        # Chunks are filled up with zeros: what stands at unchosen slots must not reach fn.
        x = jnp.where(wanted.reshape(*wanted.shape, *trailing), x, jnp.zeros_like(x))
        return jnp.moveaxis(x.reshape(num_groups, num_chunks, chunk_size, *x.shape[2:]), 1, 0)

    chunks = jax.tree.map(gather, arrays)
    empty = jax.eval_shape(fn, jax.tree.map(lambda x: x[0], chunks))
    last = jnp.max(count)

    def work(_, xs):
        number, chunk = xs
        skip = lambda _: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), empty)  # noqa: E731
        return None, jax.lax.cond(number * chunk_size < last, jax.checkpoint(fn), skip, chunk)

    _, results = jax.lax.scan(work, None, (jnp.arange(num_chunks), chunks))

    def scatter(x):
        x = jnp.moveaxis(x, 0, 1).reshape(num_groups, num_chunks * chunk_size, *x.shape[3:])
        rows = jnp.arange(num_groups)[:, None]
        x = jnp.zeros_like(x[:, :num_slots]).at[rows, order].set(x[:, :num_slots])
        mask = chosen.reshape(*chosen.shape, *(1,) * (x.ndim - 2))
        return jnp.where(mask, x, 0).reshape(b, l, *x.shape[2:])

    return jax.tree.map(scatter, results)
