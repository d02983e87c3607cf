"""Trains a model: python -m flexmdm_jax.train --config=configs/demo.py --workdir=runs/demo."""

import pathlib
import sys

import jax
from absl import flags, logging
from ml_collections import config_flags

from flexmdm_jax import cli
from flexmdm_jax.config import Config, read_config
from flexmdm_jax.data.records import Dataset, open_data
from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.suite import Evaluator
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.loop import NonFiniteLossError, train
from flexmdm_jax.training.state import Setup
from flexmdm_jax.training.workdir import claim_workdir

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Checkpoints and metrics; resumed if it exists.")


def _dataset(config: Config) -> Dataset:
    try:
        return open_data(config.data.path, config.data.sets, config.data.mixture)
    except UserError:
        data = config.data
        if data.mixture or not data.prepare or pathlib.Path(data.path).exists():
            raise
        raise UserError(
            f"no prepared dataset in {config.data.path}; make it with: {config.data.prepare}"
        ) from None


def main(_):
    """Runs the command."""
    logging.set_verbosity(logging.WARNING)
    config = read_config(_CONFIG.value)
    dataset = _dataset(config)
    workdir = pathlib.Path(_WORKDIR.value)
    setup = Setup.of(config, dataset.vocabulary, make_mesh(config.mesh))
    jax.set_mesh(setup.mesh)
    experiment = claim_workdir(workdir, config, dataset)
    evaluator = Evaluator(setup, dataset, config.evaluation, config.data.max_length, config.seed)
    try:
        state = train(config, setup, dataset, experiment, workdir, evaluator.metrics)
    except NonFiniteLossError as error:
        print(f"stopped: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"{int(state.step):,} steps; metrics: {workdir / 'metrics.jsonl'}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    cli.run(main)
