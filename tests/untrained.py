"""A model as evaluations take it, without training, and what to ask of it."""

import pathlib

import jax
import tiny

from flexmdm_jax.config import read_config
from flexmdm_jax.data.storage.records import Dataset
from flexmdm_jax.evaluation.request import Request
from flexmdm_jax.model import Model
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.checkpoints import Checkpoints
from flexmdm_jax.training.optimizer import make_optimizer
from flexmdm_jax.training.state import Setup, init_state
from flexmdm_jax.training.workdir import Experiment, write_experiment

REQUEST = Request(
    num=5,
    steps=(2,),
    events_per_step=(),
    rules=("exact_rate", "adaptive:confidence=margin"),
    temperatures=(0.5,),
    sampling={"insertions": "binomial", "grid": "sine"},
    num_sequences=8,
    num_times=2,
    bin_width=4,
    batch_size=8,
    seed=0,
)


def untrained_model(dataset: Dataset, method: str, length: int) -> Model:
    """Returns the tiny model with parameters as they are initialised."""
    values = tiny.config(dataset) | {"method": method}
    values["data"]["max_length"] = length
    config = read_config(values)
    setup = Setup.of(config, dataset.vocabulary, make_mesh(config.mesh))
    make_state, _ = init_state(setup, make_optimizer(config.optimizer, 1), config.seed)
    experiment = Experiment(config, dataset.vocabulary, dataset.tokenizer_sha256)
    # As one program: one by one, its operations are 170.
    params = jax.jit(lambda: make_state().params)()
    return Model(experiment, setup, dataset.tokenizer(), 0, params)


def write_run(dataset: Dataset, length: int, path: pathlib.Path, method: str = "flexmdm") -> None:
    """Makes a folder the workdir of a run whose only checkpoint is the untrained model."""
    model = untrained_model(dataset, method, length)
    write_experiment(path, model.experiment, model.tokenizer)
    checkpoints = Checkpoints(path, model.experiment)
    checkpoints.save_average(1, model.params)
    checkpoints.wait()
    checkpoints.close()
