"""A trained run, opened for sampling and evaluation from its workdir alone."""

import dataclasses
import pathlib
from typing import Any

import jax

from flexmdm_jax.data.tokenizers import Tokenizer
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.checkpoints import Checkpoints
from flexmdm_jax.training.optimizer import make_optimizer
from flexmdm_jax.training.state import Setup, init_state, sharded_shapes
from flexmdm_jax.training.workdir import Experiment, load_experiment, load_run_tokenizer


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model with all that belongs to it.

    Attributes:
      experiment: Config and vocabulary.
      setup: Model and laws.
      tokenizer: The one it was trained with.
      step: Steps behind the parameters.
      params: Averaged parameters.
    """

    experiment: Experiment
    setup: Setup
    tokenizer: Tokenizer
    step: int
    params: Any


def open_run(workdir: str) -> Run:
    """Returns the run in a workdir, with its newest readable parameters.

    Raises:
      UserError: If there is no run, no readable checkpoint, or the tokenizer is another one.
    """
    path = pathlib.Path(workdir)
    experiment = load_experiment(path)
    tokenizer = load_run_tokenizer(path, experiment)
    config = experiment.config
    setup = Setup.of(config, experiment.vocabulary, make_mesh(config.mesh))
    optimizer = make_optimizer(config.optimizer, config.training.num_steps)
    like = sharded_shapes(*init_state(setup, optimizer, config.seed))
    checkpoints = Checkpoints(path, experiment, read_only=True)
    step, params = checkpoints.restore_ema(like.ema)
    checkpoints.close()
    # The parameters stay on the devices they were restored to.
    jax.block_until_ready(params)
    return Run(experiment, setup, tokenizer, step, params)
