"""Tables of a vocabulary are padded on devices and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax.core import meta

from flexmdm_jax.config import MeshConfig, read_config
from flexmdm_jax.models.dit import DiT
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training import tables
from flexmdm_jax.training.checkpoints import Checkpoints
from flexmdm_jax.training.feed import DeviceBatches
from flexmdm_jax.training.state import Setup, init_state, sharded_shapes
from flexmdm_jax.training.tables import padded_size
from flexmdm_jax.training.workdir import Experiment
from flexmdm_jax.types import Vocabulary

SIZE, PADDED = 259, 384


class Data(DeviceBatches):
    """Stands for a position in the data."""

    def __init__(self):
        pass

    def get_state(self):
        return {"batches": 1}

    def set_state(self, state):
        assert state == self.get_state()


def _state(rows, monkeypatch, mesh=MeshConfig(1, 2, 4)):  # noqa: B008
    """Returns (its experiment, a state that was never trained, as shapes) with tables of rows."""
    monkeypatch.setattr(tables, "_FEWEST", SIZE if rows > SIZE else SIZE + 1)
    vocabulary = Vocabulary(SIZE, SIZE - 2, SIZE - 1)
    config = read_config(tiny.config_at("nowhere"))
    setup = Setup.of(config, vocabulary, make_mesh(mesh))
    shapes = sharded_shapes(*init_state(setup, optax.adamw(1e-3), config.seed))
    assert shapes.params["embedding"]["embedding"].shape[0] == rows
    assert shapes.params["head"]["kernel"].shape[1] == rows
    return Experiment(config, vocabulary, "hash"), shapes


def _random(shapes):
    """Returns arrays of the shapes, none of which is 0."""
    draw = np.random.default_rng(0)
    array = lambda x: np.asarray(draw.integers(1, 1000, x.shape), x.dtype)  # noqa: E731
    return jax.tree.map(lambda x: jax.device_put(array(x), x.sharding), shapes)


def _saved(folder, experiment, state):
    checkpoints = Checkpoints(folder, experiment)
    checkpoints.save(state, Data())
    checkpoints.close()
    return (folder / "checkpoints" / str(int(state.step)) / "checksums" / "metadata").read_text()


def _restored(folder, experiment, shapes):
    checkpoints = Checkpoints(folder, experiment, read_only=True)
    state, (_, ema) = checkpoints.restore(shapes, Data()), checkpoints.restore_ema(shapes.ema)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, ema, state.ema)
    return state.replace(frozen=shapes.frozen)


def test_checkpoints_hold_no_padding_and_load_into_it(tmp_path, monkeypatch):
    """One made with plain tables into padded ones, on a mesh that divides these, and back."""
    experiment, plain = _state(SIZE, monkeypatch)
    old = _random(plain)
    sums = _saved(tmp_path / "old", experiment, old)
    experiment, padded = _state(PADDED, monkeypatch)
    new = _restored(tmp_path / "old", experiment, padded)
    resized = 0
    for x, y, shape in zip(*map(jax.tree.leaves, (old, new, padded)), strict=True):
        assert (y.shape, y.sharding) == (shape.shape, shape.sharding)
        within = tuple(slice(n) for n in x.shape)
        np.testing.assert_array_equal(y[within], x)
        assert jnp.count_nonzero(y) == x.size
        resized += x.shape != y.shape
    # Two tables and a bias, of parameters, average and two moments.
    assert resized == 3 * 4
    assert _saved(tmp_path / "new", experiment, new) == sums
    experiment, plain = _state(SIZE, monkeypatch)
    again = _restored(tmp_path / "new", experiment, plain)
    jax.tree.map(np.testing.assert_array_equal, again, old)


def test_large_tables_are_multiples_of_128_and_small_ones_as_they_are():
    assert [padded_size(n) for n in (3, 400, 8191, 8192, 50_259)] == [3, 400, 8191, 8192, 50_304]


def test_a_padded_network_starts_and_computes_as_the_other():
    sizes = {"max_length": 8, "hidden_size": 16, "num_layers": 1, "num_heads": 2}
    plain, wide = (DiT(SIZE, table_size=size, **sizes) for size in (0, PADDED))
    tokens = jnp.arange(16).reshape(2, 8) + 200
    inputs = tokens, jnp.ones_like(tokens), jnp.full((2, 1), 0.3)
    first, second = (jax.jit(model.init)(jax.random.key(0), *inputs) for model in (plain, wide))
    first, second = (jax.device_get(meta.unbox(x)) for x in (first, second))
    for x, y in zip(*map(jax.tree.leaves, (first, second)), strict=True):
        np.testing.assert_array_equal(y[tuple(slice(n) for n in x.shape)], x)
        assert np.abs(y).sum() == pytest.approx(np.abs(x).sum(), rel=1e-6)
    for model, params in ((plain, first), (wide, second)):
        logits = model.apply(params, jnp.ones((3, 16)), method="decode")
        assert logits.shape == (3, SIZE), "what is drawn from has no column of padding"
