"""Segment layouts to test attention on, and attention written without regard to cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from flexmdm_jax.attention import attention


def segment_rows(rows, length):
    """Returns segment_ids [rows, length] of rows given by their segments' lengths, then padding."""
    ids = np.zeros((len(rows), length), np.int32)
    for ids_of_row, lengths in zip(ids, rows, strict=True):
        filled = np.repeat(np.arange(1, len(lengths) + 1), lengths)[:length]
        ids_of_row[: len(filled)] = filled
    return jnp.asarray(ids)


def einsum_attention(q, k, v, segment_ids):
    """Returns attention in float32 by the definition: a full table of scores and a mask."""
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, precision="highest") / jnp.sqrt(q.shape[-1])
    allowed = jnp.equal(segment_ids[:, :, None], segment_ids[:, None, :])
    allowed &= segment_ids[:, None, :] != 0
    allowed = allowed[:, None]
    highest = jnp.where(allowed, scores, -1e9).max(-1, keepdims=True)
    weights = jnp.where(allowed, jnp.exp(jnp.where(allowed, scores - highest, 0.0)), 0.0)
    total = weights.sum(-1, keepdims=True)
    weights = weights / jnp.where(total == 0, 1.0, total)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v, precision="highest")


def random_inputs(seed, b, l, h, hk, d, dtype=jnp.float32):
    """Returns q, k, v and the cotangent of the output."""
    keys = jax.random.split(jax.random.key(seed), 4)
    heads = (h, hk, hk, h)
    return [
        jax.random.normal(key, (b, l, n, d)).astype(dtype)
        for key, n in zip(keys, heads, strict=True)
    ]


def value_and_gradients(attend, q, k, v, segment_ids, grad):
    """Returns the output and dq, dk, dv for a cotangent."""
    out, vjp = jax.vjp(lambda q, k, v: attend(q, k, v, segment_ids), q, k, v)
    return out, *vjp(grad.astype(out.dtype))


def compile_step(mesh, b, l, h, hk, d, *, implementation, rows=None, heads=None):
    """Returns forward and backward compiled for the mesh's devices, in bfloat16."""
    attend = functools.partial(attention, implementation=implementation)
    step = jax.jit(functools.partial(value_and_gradients, attend))

    def array(shape, dtype, *spec):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    q = array((b, l, h, d), jnp.bfloat16, rows, None, heads)
    k = array((b, l, hk, d), jnp.bfloat16, rows, None, heads)
    with jax.set_mesh(mesh):
        return step.lower(q, k, k, array((b, l), jnp.int32, rows), q).compile()
