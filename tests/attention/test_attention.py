"""Attention within segments against plain NumPy, slot by slot in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from flexmdm_jax.attention import BACKENDS, attention

HEAD_SIZE = 8
SEGMENT_IDS = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 2, 3, 3, 3, 3, 4], [0, 0, 0, 0, 0, 0, 0]])
all_backends = pytest.mark.parametrize("implementation", BACKENDS)


def inputs(num_heads=4, num_kv_heads=4, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    b, l = SEGMENT_IDS.shape
    q, k, v = (
        jnp.asarray(rng.normal(size=(b, l, h, HEAD_SIZE)), dtype)
        for h in (num_heads, num_kv_heads, num_kv_heads)
    )
    return q, k, v, jnp.asarray(SEGMENT_IDS)


def plain(q, k, v):
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    group = q.shape[2] // k.shape[2]
    for b, i in np.argwhere(SEGMENT_IDS > 0):
        seen = SEGMENT_IDS[b] == SEGMENT_IDS[b, i]
        for h in range(q.shape[2]):
            scores = k[b, seen, h // group] @ q[b, i, h] / np.sqrt(HEAD_SIZE)
            out[b, i, h] = special.softmax(scores) @ v[b, seen, h // group]
    return out


@all_backends
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_attention_equals_numpy(implementation, num_kv_heads):
    q, k, v, segment_ids = inputs(num_kv_heads=num_kv_heads)
    out = attention(q, k, v, segment_ids, implementation=implementation)
    np.testing.assert_allclose(out, plain(q, k, v), atol=2e-6)
    np.testing.assert_array_equal(out[SEGMENT_IDS == 0], 0.0)


@all_backends
def test_bfloat16_loses_only_the_rounding_of_inputs_and_weights(implementation):
    q, k, v, segment_ids = inputs(dtype=jnp.bfloat16)
    out = attention(q, k, v, segment_ids, implementation=implementation)
    assert out.dtype == jnp.bfloat16
    # Weights of at most 1 and values of a few units, each rounded to 8 bits.
    np.testing.assert_allclose(out.astype(jnp.float32), plain(q, k, v), atol=4 * 2.0**-8)


@all_backends
def test_gradients_stay_within_the_segment(implementation):
    """A slot's output depends on every slot of its segment and on no other."""
    q, k, v, segment_ids = inputs()

    def reach(slot):
        def output(k, v):
            out = attention(q, k, v, segment_ids, implementation=implementation)
            return jnp.sum(out[0, slot])

        return sum(jnp.abs(g).sum(axis=(2, 3)) for g in jax.grad(output, argnums=(0, 1))(k, v))

    for slot in range(SEGMENT_IDS.shape[1]):
        touched = np.asarray(reach(slot)) > 0
        same = SEGMENT_IDS[0] == SEGMENT_IDS[0, slot] if SEGMENT_IDS[0, slot] else np.zeros(7, bool)
        np.testing.assert_array_equal(touched[0], same)
        assert not touched[1:].any()


@all_backends
def test_gradients_equal_finite_differences(implementation):
    q, k, v, segment_ids = inputs(num_kv_heads=2)
    rng = np.random.default_rng(1)
    weight = rng.normal(size=q.shape)
    grads = jax.grad(
        lambda *x: jnp.sum(attention(*x, segment_ids, implementation=implementation) * weight),
        argnums=(0, 1, 2),
    )(q, k, v)
    directions = [rng.normal(size=x.shape) for x in (q, k, v)]
    step = 1e-5
    high, low = (
        np.sum(
            plain(*(np.asarray(x) + s * d for x, d in zip((q, k, v), directions, strict=True)))
            * weight
        )
        for s in (step, -step)
    )
    slope = sum(np.vdot(g, d) for g, d in zip(grads, directions, strict=True))
    np.testing.assert_allclose(slope, (high - low) / (2 * step), rtol=1e-4)


@all_backends
def test_nan_at_padding_reaches_nobody(implementation):
    q, k, v, segment_ids = inputs()
    padding = (segment_ids == 0)[:, :, None, None]
    poisoned = (jnp.where(padding, jnp.nan, x) for x in (q, k, v))
    np.testing.assert_array_equal(
        attention(*poisoned, segment_ids, implementation=implementation),
        attention(q, k, v, segment_ids, implementation=implementation),
    )


def test_unknown_backends_are_refused():
    with pytest.raises(ValueError, match=r"unknown attention 'abacus'; choose one of .*xla"):
        attention(*inputs(), implementation="abacus")
