"""What cuDNN, which runs on GPUs only, is asked, and what is done with its answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layouts import einsum_attention, random_inputs, segment_rows

from flexmdm_jax.attention.cudnn import attention_cudnn


@pytest.fixture
def asked(monkeypatch):
    """Replaces cuDNN by XLA with the same arguments; returns the dict they are recorded in."""
    record = {}
    original = jax.nn.dot_product_attention

    def recording(*arrays, implementation, **kwargs):
        record.update(kwargs, implementation=implementation, arrays=arrays)
        return original(*arrays, implementation="xla", **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", recording)
    return record


def test_lengths_are_those_of_the_rows(asked):
    q, k, v, _ = random_inputs(0, 4, 32, 4, 2, 16, dtype=jnp.bfloat16)
    segment_ids = segment_rows([[32], [7], [1], []], 32)
    out = attention_cudnn(q, k, v, segment_ids)
    assert asked["implementation"] == "cudnn"
    for name in ("query_seq_lengths", "key_value_seq_lengths"):
        np.testing.assert_array_equal(asked[name], [32, 7, 1, 0])
    expected = einsum_attention(q, k, v, segment_ids)
    # bfloat16 weights and results: a few roundings of 2⁻⁹.
    np.testing.assert_allclose(np.asarray(out, np.float32), expected, rtol=0, atol=2.0**-5)


def test_padding_is_exactly_zero_whatever_it_held(asked):
    segment_ids = segment_rows([[20], []], 32)
    real = (segment_ids > 0)[:, :, None, None]
    arrays = random_inputs(1, 2, 32, 2, 2, 16, dtype=jnp.bfloat16)[:3]
    poisoned = [jnp.where(real, x, jnp.nan) for x in arrays]
    out = attention_cudnn(*poisoned, segment_ids)
    np.testing.assert_array_equal(out, attention_cudnn(*arrays, segment_ids))
    assert not np.asarray(jnp.where(real, 0, out)).any()


def test_rows_of_several_segments_are_nan_not_wrong(asked):
    q, k, v, _ = random_inputs(2, 2, 32, 2, 2, 16, dtype=jnp.bfloat16)
    out = jax.jit(attention_cudnn)(q, k, v, segment_rows([[10, 10], [20]], 32))
    assert np.isnan(np.asarray(out[0], np.float32)).all()
    assert np.isfinite(np.asarray(out[1], np.float32)).all()
