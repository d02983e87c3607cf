"""The mesh decides where things are computed, and nothing else."""

import copy
import os
import signal

import jax
import numpy as np
import pytest
import tiny
import training_programs

from flexmdm_jax.config import MeshConfig, read_config
from flexmdm_jax.data.batches.pipeline import configured_batches
from flexmdm_jax.errors import UserError
from flexmdm_jax.generation.pools import Job
from flexmdm_jax.generation.starts import Start
from flexmdm_jax.sampling import SamplerConfig
from flexmdm_jax.sharding import batch_sharding, make_mesh
from flexmdm_jax.training import loop
from flexmdm_jax.training.feed import corrupted
from flexmdm_jax.training.loop import train
from flexmdm_jax.training.optimizer import make_optimizer
from flexmdm_jax.training.state import Setup, init_state
from flexmdm_jax.training.step import make_train_step, sequence_keys

STEPS = 5
MESHES = {
    "data": MeshConfig(8, 1, 1),
    "fsdp": MeshConfig(1, 8, 1),
    "tensor": MeshConfig(4, 1, 2),
    "mixed": MeshConfig(2, 2, 2),
}
ONE = MeshConfig(1, 1, 1)


@pytest.fixture(scope="module", autouse=True)
def shared_programs():
    with training_programs.shared():
        yield


def _mesh(config):
    return make_mesh(config, jax.devices()[: config.data * config.fsdp * config.tensor])


def _outcome(values, dataset, mesh, sampling=True):
    """Returns (parameters, losses, noise of the first row, samples) of five steps on a mesh."""
    config = read_config(values)
    setup = Setup.of(config, dataset.vocabulary, mesh)
    optimizer = make_optimizer(config.optimizer, STEPS)
    make_state, shardings = init_state(setup, optimizer, config.seed)
    rows = configured_batches(config, dataset, setup.process)

    def noise_of(state, batch):
        return jax.random.uniform(sequence_keys(state.rng, batch.index)[0, 0], (4,))

    with jax.set_mesh(mesh):
        state = jax.jit(make_state, out_shardings=shardings)()
        step = make_train_step(
            config, setup, optimizer, shardings, rows.expected * dataset.mean_length
        )
        losses, noise = [], []
        for _ in range(STEPS):
            batch = jax.device_put(corrupted(next(rows)), batch_sharding(mesh))
            noise.append(jax.device_get(jax.jit(noise_of)(state, batch)))
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
        samples = _samples(setup, state.params, config.data.max_length) if sampling else None
    return jax.device_get(state.params), losses, noise, samples


def _samples(setup, params, length):
    start = Start.of([], [0], setup.process, length)
    jobs = [Job(start, SamplerConfig(steps=4), 0, number) for number in range(8)]
    return setup.engine(8).complete(params, jobs)


@pytest.fixture(scope="module")
def on_one_device(tiny_dataset):
    return _outcome(tiny.config(tiny_dataset), tiny_dataset, _mesh(ONE))


@pytest.mark.parametrize("name", MESHES)
def test_training_and_sampling_do_not_depend_on_the_mesh(
    name, tiny_config, tiny_dataset, on_one_device
):
    # Compiling a sampler takes long; these two meshes use every axis.
    sampling = name in ("fsdp", "mixed")
    outcome = _outcome(tiny_config, tiny_dataset, _mesh(MESHES[name]), sampling)
    params, losses, noise, samples = outcome
    one_params, one_losses, one_noise, one_samples = on_one_device
    jax.tree.map(np.testing.assert_array_equal, noise, one_noise)
    # float32 sums in another order; AdamW divides small gradients by their own size.
    np.testing.assert_allclose(losses, one_losses, rtol=2e-5)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-3)  # noqa: E731
    jax.tree.map(close, params, one_params)
    assert len({len(row.tokens) for row in one_samples}) > 1
    if sampling:
        assert [x.tokens.tolist() for x in samples] == [x.tokens.tolist() for x in one_samples]


def _train(values, dataset, workdir, num_steps, mesh, evaluate=lambda _: {}):
    values = copy.deepcopy(values)
    values["training"]["num_steps"] = num_steps
    config = read_config(values)
    setup = Setup.of(config, dataset.vocabulary, mesh)
    with jax.set_mesh(mesh):
        return train(config, setup, dataset, workdir, evaluate)


def test_a_run_moves_from_eight_devices_to_one_to_four(tiny_config, tiny_dataset, tmp_path):
    arguments = (tiny_config, tiny_dataset)
    eight, four = _mesh(MESHES["mixed"]), _mesh(MeshConfig(2, 2, 1))
    straight = _train(*arguments, tmp_path / "straight", 12, eight)
    saved = jax.device_get(_train(*arguments, tmp_path / "moved", 4, eight))
    # Nothing to do but to restore and to hand back.
    restored = _train(*arguments, tmp_path / "moved", 4, _mesh(ONE))
    jax.tree.map(np.testing.assert_array_equal, saved, jax.device_get(restored))
    assert all(len(x.devices()) == 1 for x in jax.tree.leaves(restored.params))
    _train(*arguments, tmp_path / "moved", 8, _mesh(ONE))
    moved = _train(*arguments, tmp_path / "moved", 12, four)
    kernel = moved.params["blocks"]["mlp_in"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 2 == kernel.size
    # As above, over more steps.
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-2)  # noqa: E731
    jax.tree.map(close, jax.device_get(moved.params), jax.device_get(straight.params))


def test_sigterm_saves_ends_and_goes_on_bit_for_bit(
    tiny_config, tiny_dataset, tmp_path, monkeypatch
):
    mesh, steps = _mesh(ONE), []
    original = loop.make_train_step

    def make_and_keep(*args):
        steps.append(original(*args))
        return steps[-1]

    monkeypatch.setattr(loop, "make_train_step", make_and_keep)
    tiny_config["training"]["evaluate_every"] = 3
    terminate = lambda _: os.kill(os.getpid(), signal.SIGTERM) or {}  # noqa: E731
    before = signal.getsignal(signal.SIGTERM)
    stopped = _train(tiny_config, tiny_dataset, tmp_path / "w", 10, mesh, terminate)
    # Told during the evaluation after step 3.
    assert stopped.step == 4
    assert signal.getsignal(signal.SIGTERM) == before
    resumed = _train(tiny_config, tiny_dataset, tmp_path / "w", 10, mesh)
    straight = _train(tiny_config, tiny_dataset, tmp_path / "straight", 10, mesh)
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)
    assert [step._cache_size() for step in steps] == [1, 1, 1], "a step was compiled twice"


@pytest.mark.parametrize("config", [MeshConfig(2, 2, 1), MeshConfig(-1, 3, 1)])
def test_a_mesh_that_does_not_fit_the_devices_is_named(config):
    with pytest.raises(UserError, match=r"config.mesh: .* does not fit 8 devices"):
        make_mesh(config)


def test_rows_that_no_kernel_takes_are_named(tiny_config, tiny_dataset, tmp_path):
    tiny_config["data"] |= {"packing": True, "row_length": 2**22, "max_segments": 4}
    tiny_config["model"]["attention"] = "pallas_interpret"
    tiny_config["training"]["batch_size"] = 1
    with pytest.raises(UserError, match=r"config\.data: the list of tiles of 1 rows"):
        _train(tiny_config, tiny_dataset, tmp_path / "w", 1, _mesh(ONE))
    assert not (tmp_path / "w").exists()


def test_a_batch_that_does_not_split_is_named(tiny_config, tiny_dataset, tmp_path):
    tiny_config["training"]["batch_size"] = 12
    with pytest.raises(UserError, match="12 rows at a time do not split over 8 devices"):
        _train(tiny_config, tiny_dataset, tmp_path / "w", 1, _mesh(MESHES["data"]))
