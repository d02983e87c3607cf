"""The kernels pass the GPU compiler, use the matrix unit and keep everything in registers."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.gpu_compiler import gpu_mesh, reports
from flexmdm_jax.attention import attention

KERNELS = {f"segment_attention_{name}" for name in ("forward", "query_gradient", "key_gradient")}


def compile_step(mesh, b, l, h, hk, d):
    """Returns forward and backward compiled for rows and heads along a mesh."""

    def step(q, k, v, segment_ids, grad):
        attend = lambda q, k, v: attention(q, k, v, segment_ids, implementation="pallas_gpu")  # noqa: E731
        out, vjp = jax.vjp(attend, q, k, v)
        return out, vjp(grad)

    def array(shape, dtype, *spec):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    rows = ("data", "fsdp")
    q = array((b, l, h, d), jnp.bfloat16, rows, None, "tensor")
    k = array((b, l, hk, d), jnp.bfloat16, rows, None, "tensor")
    with jax.set_mesh(mesh):
        return jax.jit(step).lower(q, k, k, array((b, l), jnp.int32, rows), q).compile()


@pytest.mark.parametrize("size", [64, 128])
def test_forward_and_backward(size):
    programs = []
    found = reports(lambda: programs.append(compile_step(gpu_mesh((2, 1, 2)), 4, 1024, 8, 4, size)))
    assert set(found) == KERNELS
    for name, report in found.items():
        assert report.instructions["HGMMA"], name
        spills = {report.spilled, report.instructions["STL"], report.instructions["LDL"]}
        assert spills == {0}, name
        assert not report.complaints
    text = programs[0].as_text()
    assert text.count("mosaic_gpu") >= len(KERNELS)
    assert "all-gather" not in text
    assert "all-to-all" not in text
