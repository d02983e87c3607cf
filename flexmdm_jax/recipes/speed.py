"""How long a step of a training takes here, found by taking some."""

import itertools
import time
from typing import NamedTuple

import jax
import numpy as np

from flexmdm_jax.config import Config
from flexmdm_jax.data.batches.pipeline import configured_batches
from flexmdm_jax.data.storage.records import Dataset
from flexmdm_jax.sharding import batch_sharding, make_mesh
from flexmdm_jax.training.feed import DeviceBatches
from flexmdm_jax.training.optimizer import make_optimizer
from flexmdm_jax.training.state import Setup, first_state, init_state
from flexmdm_jax.training.step import make_train_step


class Speed(NamedTuple):
    """What was measured.

    Attributes:
      compile_seconds: Until the first step was done.
      step_seconds: Median of those behind it.
      sequences: Of a step, on average.
      parameters: Of the network.
    """

    compile_seconds: float
    step_seconds: float
    sequences: float
    parameters: int


def measured(config: Config, dataset: Dataset, num_steps: int = 8) -> Speed:
    """Returns the speed of a training, of so many of its steps after the first."""
    setup = Setup.of(config, dataset.vocabulary, make_mesh(config.mesh))
    with jax.set_mesh(setup.mesh):
        source = configured_batches(config, dataset, setup.process)
        batches = DeviceBatches(source, batch_sharding(setup.mesh))
        optimizer = make_optimizer(config.optimizer, config.training.num_steps)
        make_state, shardings = init_state(setup, optimizer, config.seed)
        state = first_state(make_state, shardings)
        per_batch = source.expected * dataset.mean_length
        step = make_train_step(config, setup, optimizer, shardings, per_batch)
        seconds, sequences = [], []
        for batch in itertools.islice(batches, num_steps + 1):
            started = time.perf_counter()
            state, metrics = jax.block_until_ready(step(state, batch))
            seconds.append(time.perf_counter() - started)
            sequences.append(float(metrics["num_sequences"]))
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return Speed(seconds[0], float(np.median(seconds[1:])), float(np.mean(sequences)), parameters)
