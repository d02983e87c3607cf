"""Each device does its rows, whatever the mesh, and none waits for another."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexmdm_jax.config import MeshConfig
from flexmdm_jax.rows import map_rows
from flexmdm_jax.sharding import batch_sharding, make_mesh
from flexmdm_jax.types import fold_in_rows


def _keys_and_means(rows):
    return fold_in_rows(jax.random.key(3), jnp.arange(rows)), jnp.linspace(0.0, 40.0, rows)


@pytest.mark.parametrize("mesh", [MeshConfig(8, 1, 1), MeshConfig(2, 2, 2), MeshConfig(1, 1, 8)])
@pytest.mark.parametrize("rows", [16, 3])
def test_the_numbers_are_those_of_vmap(mesh, rows):
    keys, means = _keys_and_means(rows)
    expected = jax.vmap(jax.random.poisson)(keys, means)
    with jax.set_mesh(make_mesh(mesh)):
        found = jax.jit(lambda *x: map_rows(jax.random.poisson, *x))(keys, means)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(map_rows(jax.random.poisson, keys, means), expected)


@pytest.mark.parametrize(
    ("run", "asks"), [(map_rows, False), (lambda f, *x: jax.vmap(f)(*x), True)]
)
def test_no_loop_asks_other_devices(run, asks):
    """The compiler's own way does, before every round of a loop."""
    mesh = make_mesh(MeshConfig(8, 1, 1))
    keys, means = jax.device_put(_keys_and_means(16), batch_sharding(mesh))
    with jax.set_mesh(mesh):
        program = jax.jit(lambda *x: run(jax.random.poisson, *x)).lower(keys, means).compile()
    assert bool(re.search(r"all-reduce|all-gather", program.as_text())) == asks
