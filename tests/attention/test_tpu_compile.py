"""The kernels pass the TPU compiler, for every generation, head size and length."""

import jax
import jax.numpy as jnp
import pytest
from effort import either
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.tpu_compiler import TOPOLOGIES, tpu_mesh
from flexmdm_jax.attention import attention


def compile_step(mesh, b, l, h, hk, d, *, rows=None, heads=None):
    """Returns forward and backward compiled for the mesh's devices."""

    def step(q, k, v, segment_ids, grad):
        attend = lambda q, k, v: attention(q, k, v, segment_ids, implementation="pallas")  # noqa: E731
        out, vjp = jax.vjp(attend, q, k, v)
        return out, vjp(grad)

    def array(shape, dtype, *spec):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    q = array((b, l, h, d), jnp.bfloat16, rows, None, heads)
    k = array((b, l, hk, d), jnp.bfloat16, rows, None, heads)
    with jax.set_mesh(mesh):
        return jax.jit(step).lower(q, k, k, array((b, l), jnp.int32, rows), q).compile()


LENGTHS, SIZES = (256, 1024, 4096), (64, 128)
# Every length and size for every generation, or of each pair of these two every other.
CASES = [
    pytest.param(generation, size, length, id=f"{generation}-{size}-{length}")
    for i, generation in enumerate(TOPOLOGIES)
    for j, size in enumerate(SIZES)
    for k, length in enumerate(LENGTHS)
    if either((i + j + k) % 2 == 0, True)
]


@pytest.mark.parametrize(("generation", "size", "length"), CASES)
def test_forward_and_backward_compile(generation, size, length):
    compiled = compile_step(tpu_mesh(generation), 2, length, 2, 2, size)
    calls = compiled.as_text().count("tpu_custom_call")
    assert calls >= 2, "the kernels are missing from the program"
