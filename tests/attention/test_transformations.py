"""The kernel under the transformations a model puts it through: mesh, remat, vmap, scan."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from layouts import (
    compile_step,
    einsum_attention,
    random_inputs,
    segment_rows,
    value_and_gradients,
)

from benchmarks.tpu_compiler import tpu_mesh
from flexmdm_jax.attention import attention
from flexmdm_jax.models.dit import DiT

kernel = functools.partial(attention, implementation="pallas_interpret")
SHAPE = (4, 128, 4, 2, 64)
ROWS = [[128], [40, 60], [5], []]


def assert_equal_to_reference(got, args):
    for x, y in zip(got, value_and_gradients(einsum_attention, *args), strict=True):
        # float32 sums in another order, see test_backends.
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * max(1.0, np.abs(y).max()))


@pytest.fixture
def inputs():
    *qkv, grad = random_inputs(0, *SHAPE)
    return *qkv, segment_rows(ROWS, SHAPE[1]), grad


def test_under_remat(inputs):
    run = jax.jit(functools.partial(value_and_gradients, jax.remat(kernel)))
    assert_equal_to_reference(run(*inputs), inputs)


def test_under_vmap(inputs):
    split = [x.reshape(2, 2, *x.shape[1:]) for x in inputs]
    run = jax.jit(jax.vmap(functools.partial(value_and_gradients, kernel)))
    got = [x.reshape(4, *x.shape[2:]) for x in run(*split)]
    assert_equal_to_reference(got, inputs)


def test_under_scan(inputs):
    def twice(attend, q, k, v, segment_ids):
        body = lambda x, _: (attend(x, k, v, segment_ids), None)  # noqa: E731
        return jax.lax.scan(body, q, length=2)[0]

    run = lambda attend: jax.jit(  # noqa: E731
        functools.partial(value_and_gradients, functools.partial(twice, attend))
    )(*inputs)
    for x, y in zip(run(kernel), run(einsum_attention), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * max(1.0, np.abs(y).max()))


def test_in_the_model_under_scan_and_remat():
    tokens = jnp.arange(2 * 24, dtype=jnp.int32).reshape(2, 24) % 11
    segment_ids = segment_rows([[20], [9, 15]], 24)
    alpha = jnp.asarray([[0.2, 0.2], [0.7, 0.4]])

    def model_with(implementation):
        return DiT(
            vocabulary_size=11,
            max_length=24,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            condition_size=8,
            remat="dots",
            attention_implementation=implementation,
        )

    @jax.jit
    def parameters():
        params = nn.unbox(model_with("xla").init(jax.random.key(0), tokens, segment_ids, alpha))
        # Gates start at 0, which would hide attention.
        waves = lambda x: 0.1 * jnp.sin(jnp.arange(x.size)).reshape(x.shape)  # noqa: E731
        return jax.tree.map(lambda x: x + waves(x), params)

    params = parameters()

    def gradients(implementation):
        model = model_with(implementation)

        def loss(params):
            gaps, logits = model.apply(params, tokens, segment_ids, alpha)
            real = segment_ids > 0
            return jnp.sum(jnp.where(real[..., None], jnp.sin(logits), 0.0)) + gaps.sum()

        return jax.device_get(jax.jit(jax.grad(loss))(params))

    for x, y in zip(
        *(jax.tree.leaves(gradients(name)) for name in ("pallas_interpret", "xla")), strict=True
    ):
        # Two layers of float32 sums in another order.
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-4 * max(1.0, np.abs(y).max()))


def make_mesh(*shape):
    return jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def sharded(x, mesh, *spec):
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))


def test_on_a_mesh_each_device_keeps_its_rows_and_heads(inputs):
    mesh = make_mesh(2, 2, 2)
    rows = ("data", "fsdp")
    q, k, v, segment_ids, grad = inputs
    q, k, v, grad = (sharded(x, mesh, rows, None, "tensor", None) for x in (q, k, v, grad))
    args = (q, k, v, sharded(segment_ids, mesh, rows, None), grad)
    with jax.set_mesh(mesh):
        run = jax.jit(functools.partial(value_and_gradients, kernel)).lower(*args).compile()
        got = run(*args)
    text = run.as_text()
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert collective not in text, collective
    for x in got:
        assert x.sharding.is_equivalent_to(q.sharding, 4)
    assert_equal_to_reference(got, inputs)


def test_a_batch_the_mesh_does_not_divide_is_computed_everywhere():
    *qkv, grad = random_inputs(1, 1, *SHAPE[1:])
    args = (*qkv, segment_rows([[100]], SHAPE[1]), grad)
    with jax.set_mesh(make_mesh(4, 1, 2)):
        got = jax.jit(functools.partial(value_and_gradients, kernel))(*args)
    assert_equal_to_reference(got, args)


def test_heads_the_mesh_does_not_divide_are_refused(inputs):
    mesh = make_mesh(1, 1, 8)
    with jax.set_mesh(mesh), pytest.raises(ValueError, match="2 heads and the mesh axis 'tensor'"):
        jax.jit(kernel)(*inputs[:4])


def test_on_a_tpu_mesh_nothing_is_gathered():
    mesh = tpu_mesh("v5e", (2, 1, 2))
    spread = {"rows": ("data", "fsdp"), "heads": "tensor"}
    compiled = compile_step(mesh, 4, 256, 4, 4, 64, implementation="pallas", **spread)
    text = compiled.as_text()
    assert "tpu_custom_call" in text
    assert "all-gather" not in text
    assert "all-to-all" not in text
