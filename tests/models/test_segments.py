"""spread(): what a TPU computes as a product is what an index looks up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexmdm_jax.models import segments

RNG = np.random.default_rng(0)
SEGMENT_IDS = np.array([[1, 1, 2, 3, 3, 3, 4, 0], [2, 2, 2, 5, 5, 0, 0, 0]])


def spread(values):
    return segments.spread(values, jnp.asarray(SEGMENT_IDS))


def looked_up(values):
    rows = np.arange(len(values))[:, None]
    return np.where(SEGMENT_IDS[..., None] > 0, values[rows, np.maximum(SEGMENT_IDS - 1, 0)], 0)


@pytest.fixture
def on_tpu(monkeypatch):
    """The program of a TPU, run here."""
    monkeypatch.setattr(segments, "current_platform", lambda: "tpu")


@pytest.mark.parametrize("size", [1.0, 1e-20, 1e20])
@pytest.mark.usefixtures("on_tpu")
def test_the_product_looks_up_the_segment(size):
    values = (size * RNG.normal(size=(2, 5, 6))).astype(np.float32)
    got = jax.jit(spread)(values)
    # Two bfloat16 numbers have 16 bits of one float32.
    np.testing.assert_allclose(got, looked_up(values), rtol=2**-16)
    assert np.abs(got).max() > 0


@pytest.mark.usefixtures("on_tpu")
def test_gradients_are_sums_over_a_segments_slots():
    values = RNG.normal(size=(2, 5, 6)).astype(np.float32)
    weights = RNG.normal(size=(2, 8, 6))
    run = jax.grad(lambda x: jnp.sum(jnp.asarray(weights, jnp.float32) * spread(x)))
    expected = np.zeros((2, 5, 6))
    for row, slot in np.argwhere(SEGMENT_IDS > 0):
        expected[row, SEGMENT_IDS[row, slot] - 1] += weights[row, slot]
    np.testing.assert_allclose(jax.jit(run)(values), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("on_tpu")
def test_one_segment_is_broadcast():
    """Padded rows pay for no product."""
    values = jnp.ones((2, 1, 6))
    assert "dot_general" not in str(jax.make_jaxpr(spread)(values))
    assert "dot_general" in str(jax.make_jaxpr(spread)(jnp.ones((2, 5, 6))))
