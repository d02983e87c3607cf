"""The GPU kernels, run by Pallas' interpreter: its threads, copies and barriers are those of a GPU.

bfloat16 operands are the same numbers on both sides. A kernel rounds weights, gradients of scores
and results to 8 bits: errors of 2⁻⁹ that are independent, hence 1e-2 in norm with room to spare.
"""

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from effort import either
from jax._src.pallas.mosaic.interpret import thread_map
from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams
from layouts import einsum_attention, random_inputs, segment_rows, value_and_gradients

from flexmdm_jax.attention.pallas_gpu import Plan, Stream, attention_pallas_gpu

INTERPRETER = InterpretGPUParams(detect_races=True)
# Two tiles in memory and more to come: each is filled again.
SMALL = Plan(Stream(64, 2), Stream(64, 2), Stream(64, 2))
SHAPE = (2, 256, 1, 1, 64)


@pytest.fixture(autouse=True)
def compile_threads_once(monkeypatch):
    """The interpreter compiles the program of a thread again for every thread of every block."""
    programs, lock = {}, threading.Lock()

    def run_thread(jaxpr, consts, *args):
        with lock:
            if id(jaxpr) not in programs:
                evaluate = functools.partial(jax.core.eval_jaxpr, jaxpr)
                programs[id(jaxpr)] = jaxpr, jax.jit(evaluate).lower(consts, *args).compile()
        programs[id(jaxpr)][1](consts, *args)

    monkeypatch.setattr(thread_map, "_run_jaxpr", run_thread, raising=False)


@functools.cache
def compiled(plan):
    """Returns a jitted (q, k, v, segment_ids, grad) -> output and gradients."""
    attend = functools.partial(attention_pallas_gpu, plan=plan, interpret=INTERPRETER)
    return jax.jit(functools.partial(value_and_gradients, attend))


def run(plan, *args):
    """Returns output and gradients, when they are there: the interpreter computes with JAX too."""
    return jax.block_until_ready(compiled(plan)(*args))


def assert_near(got, q, k, v, segment_ids, grad):
    for x, y in zip(
        got, value_and_gradients(einsum_attention, q, k, v, segment_ids, grad), strict=True
    ):
        assert x.dtype == q.dtype
        x, y = (np.asarray(a, np.float32) for a in (x, y))
        assert np.linalg.norm(x - y) < 1e-2 * np.linalg.norm(y)


LAYOUTS = {
    "packed, an empty row": [[100, 90, 50], []],
    "full, short segments": [[256], [22] * 11],
}


@pytest.mark.parametrize("layout", either(list(LAYOUTS)[:1], list(LAYOUTS)))
def test_values_and_gradients_whatever_padding_holds(layout):
    segment_ids = segment_rows(LAYOUTS[layout], SHAPE[1])
    real = (segment_ids > 0)[:, :, None, None]
    arrays = random_inputs(0, *SHAPE, dtype=jnp.bfloat16)
    q, k, v, grad = (jnp.where(real, x, jnp.nan) for x in arrays)
    got = run(SMALL, q, k, v, segment_ids, grad)
    q, k, v, grad = (jnp.where(real, x, 0) for x in arrays)
    assert_near(got, q, k, v, segment_ids, grad)
    for x in got:
        assert not np.asarray(jnp.where(real, 0, x)).any(), "padding must be exactly 0"
    assert not gpu_callbacks.get_races().races_found


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1, 256, 2, 1, 128), jnp.bfloat16), ((1, 100, 1, 1, 40), jnp.float16)],
    ids=["grouped, of 128", "of 40, in float16"],
)
def test_other_heads(shape, dtype):
    *qkv, grad = random_inputs(1, *shape, dtype=dtype)
    args = (*qkv, segment_rows([[70, 20, 120]], shape[1]), grad)
    assert_near(run(None, *args), *args)


def test_tiles_the_matrix_unit_does_not_take_are_refused():
    for tile in (0, 32, 96, 256):
        with pytest.raises(ValueError, match=f"tile = {tile}: give 64 or 128"):
            Stream(tile, 2)
