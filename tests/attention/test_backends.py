"""What every backend must do, measured against a float32 einsum with a mask.

float32: sums of a few hundred products of order 1, in another order than the reference (where
terms cancel, the terms set the scale, hence at least 1):
1e-5 of the largest entry is ten times what is seen. bfloat16: operands are the same bfloat16
numbers on both sides; a kernel rounds weights, score gradients and the result to 8 bits, so each
entry is off by a few 2⁻⁹ of the terms it sums: 2⁻⁶ of the largest entry bounds it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import einsum_attention, random_inputs, segment_rows, value_and_gradients

from flexmdm_jax.attention import attention
from flexmdm_jax.attention.blocks import BlockSizes
from flexmdm_jax.attention.pallas_tpu import attention_pallas

RUNNABLE = ("xla", "pallas_interpret")
TOLERANCE = {jnp.float32: 1e-5, jnp.bfloat16: 2.0**-6}

backends = pytest.mark.parametrize("implementation", RUNNABLE)


@functools.cache
def compiled(implementation):
    """Returns a jitted (q, k, v, segment_ids, grad) -> output and gradients."""
    if implementation == "einsum":
        return jax.jit(functools.partial(value_and_gradients, einsum_attention))
    attend = functools.partial(attention, implementation=implementation)
    return jax.jit(functools.partial(value_and_gradients, attend))


def assert_close(got, expected, dtype):
    for name, x, y in zip(("out", "dq", "dk", "dv"), got, expected, strict=True):
        x, y = (np.asarray(a, np.float32) for a in (x, y))
        bound = TOLERANCE[dtype] * max(np.abs(y).max(), 1.0)
        np.testing.assert_allclose(x, y, rtol=0, atol=bound, err_msg=name)


# Most layouts share one shape, for each shape is compiled once per backend.
SHAPE = (3, 384, 2, 2, 64)
CASES = {
    "full, one slot, none": (SHAPE, [[384], [1], []]),
    "an empty row first": (SHAPE, [[], [200], []]),
    "nothing but padding": (SHAPE, [[], [], []]),
    "many short segments": (SHAPE, [[1, 2, 3] * 60, [22] * 17, [1] * 384]),
    "packed across blocks": (SHAPE, [[100, 30, 254], [255, 1, 100], [127, 129]]),
    "rows of one slot": ((2, 1, 2, 2, 64), [[1], []]),
    "heads of 128": ((1, 300, 2, 2, 128), [[140, 90]]),
    "heads of 40": ((1, 200, 2, 2, 40), [[70, 100]]),
    "heads of 136": ((1, 140, 1, 1, 136), [[70, 60]]),
    "grouped queries of 64": ((2, 300, 6, 2, 64), [[120, 130], [40]]),
    "grouped queries of 128": ((1, 200, 2, 1, 128), [[30, 120]]),
    "an odd head": ((1, 140, 3, 1, 64), [[100, 30]]),
}


@backends
@pytest.mark.parametrize("case", list(CASES))
def test_values_and_gradients_in_float32(implementation, case):
    shape, rows = CASES[case]
    *qkv, grad = random_inputs(0, *shape)
    segment_ids = segment_rows(rows, shape[1])
    got = compiled(implementation)(*qkv, segment_ids, grad)
    assert_close(got, compiled("einsum")(*qkv, segment_ids, grad), jnp.float32)


@backends
@pytest.mark.parametrize("case", ["packed across blocks", "heads of 128"])
def test_values_and_gradients_in_bfloat16(implementation, case):
    shape, rows = CASES[case]
    *qkv, grad = random_inputs(1, *shape, dtype=jnp.bfloat16)
    segment_ids = segment_rows(rows, shape[1])
    got = compiled(implementation)(*qkv, segment_ids, grad)
    assert {x.dtype for x in got} == {jnp.dtype(jnp.bfloat16)}
    assert_close(got, compiled("einsum")(*qkv, segment_ids, grad), jnp.bfloat16)


row_of_segments = st.lists(st.integers(1, 200), max_size=12)


@backends
@settings(max_examples=20)
@given(rows=st.lists(row_of_segments, min_size=3, max_size=3), seed=st.integers(0, 99))
def test_any_layout_of_segments(implementation, rows, seed):
    *qkv, grad = random_inputs(seed, *SHAPE)
    segment_ids = segment_rows(rows, SHAPE[1])
    got = compiled(implementation)(*qkv, segment_ids, grad)
    assert_close(got, compiled("einsum")(*qkv, segment_ids, grad), jnp.float32)


@backends
@pytest.mark.parametrize("rows", [[[200, 50], [], [22] * 9], [[1], [383], [130]]])
def test_padding_reaches_no_result(implementation, rows):
    segment_ids = segment_rows(rows, SHAPE[1])
    real = (segment_ids > 0)[:, :, None, None]
    clean = [jnp.where(real, x, 0.0) for x in random_inputs(2, *SHAPE)]
    poisoned = [jnp.where(real, x, jnp.nan) for x in clean]
    run = compiled(implementation)
    for x, y in zip(
        run(*poisoned[:3], segment_ids, poisoned[3]),
        run(*clean[:3], segment_ids, clean[3]),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)
        assert not np.asarray(jnp.where(real, 0.0, x)).any(), "padding must be exactly 0"


@backends
def test_segments_do_not_see_each_other(implementation):
    *qkv, grad = random_inputs(3, *SHAPE)
    run = compiled(implementation)
    packed = run(*qkv, segment_rows([[150, 150], [384], [9]], SHAPE[1]), grad)
    alone = run(*qkv, segment_rows([[150], [384], [9]], SHAPE[1]), grad)
    for x, y in zip(packed, alone, strict=True):
        np.testing.assert_allclose(x[0, :150], y[0, :150], rtol=0, atol=1e-5)


@backends
def test_two_runs_agree_bit_for_bit(implementation):
    *qkv, grad = random_inputs(4, *SHAPE)
    segment_ids = segment_rows([[100, 200], [300], [9]], SHAPE[1])
    run = compiled(implementation)
    first, second = run(*qkv, segment_ids, grad), run(*qkv, segment_ids, grad)
    for x, y in zip(first, second, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("blocks", [BlockSizes(128, 128), BlockSizes(256, 512)])
def test_other_block_sizes_give_the_same(blocks):
    *qkv, grad = random_inputs(6, 2, 600, 2, 2, 64)
    segment_ids = segment_rows([[300, 290], [70]], 600)
    attend = functools.partial(attention_pallas, blocks=blocks, interpret=True)
    got = jax.jit(functools.partial(value_and_gradients, attend))(*qkv, segment_ids, grad)
    assert_close(got, compiled("einsum")(*qkv, segment_ids, grad), jnp.float32)


@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_kernel_keeps_extreme_scores_finite(scale):
    *qkv, grad = random_inputs(5, *SHAPE)
    qkv[0] = qkv[0] * scale
    segment_ids = segment_rows([[300], [5, 100], [1]], SHAPE[1])
    got = compiled("pallas_interpret")(*qkv, segment_ids, grad)
    expected = compiled("einsum")(*qkv, segment_ids, grad)
    for x, y in zip(got, expected, strict=True):
        # Scores of several hundred carry a float32 rounding of 1e-5, and weights their exponential.
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-3 * float(jnp.abs(y).max()))
