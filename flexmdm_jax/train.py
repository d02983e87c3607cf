"""Trains a model: python -m flexmdm_jax.train --config=configs/demo.py --workdir=runs/demo."""

import importlib.util
import pathlib
import shlex
import sys

import jax
from absl import flags, logging

from flexmdm_jax import __version__, cli, hosts, options
from flexmdm_jax.config import Config, config_to_dict, read_config
from flexmdm_jax.data.storage.mixtures import open_data
from flexmdm_jax.data.storage.records import Dataset
from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.suite import Evaluator
from flexmdm_jax.files import json_text
from flexmdm_jax.overrides import overridden_paths
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.loop import NonFiniteLossError, train
from flexmdm_jax.training.memory import check_training
from flexmdm_jax.training.profiling import Window
from flexmdm_jax.training.state import Setup

_CONFIG = options.define_config("A file of configs/.")
_WORKDIR = options.define_path("workdir", None, "Checkpoints and metrics; resumed if it exists.")
_PROFILE = flags.DEFINE_string("profile", "", "Steps to trace into workdir/profile: first:last.")
_keep_programs = options.define_compilation_cache()
_join = options.define_process_flags()


def _dataset(config: Config) -> Dataset:
    try:
        return open_data(config.data.path, config.data.sets, config.data.mixture)
    except UserError:
        data = config.data
        # What the config file says of its own dataset says nothing of another one.
        own = data.prepare and "data.path" not in overridden_paths(sys.argv)
        if data.mixture or not own or pathlib.Path(data.path).exists():
            raise
        raise UserError(
            f"no prepared dataset in {data.path}; make it with: {data.prepare}"
        ) from None


def _next_steps(workdir: pathlib.Path) -> str:
    """Returns the commands that look at what has been trained."""
    where = shlex.quote(str(workdir))
    missing = importlib.util.find_spec("tensorboard") is None
    advice = "   (pip install 'flexmdm-jax[tensorboard]')" if missing else ""
    return (
        f"next: python -m flexmdm_jax.sample --workdir={where}\n"
        f"      python -m flexmdm_jax.evaluate --workdir={where}\n"
        f"      tensorboard --logdir={where}/tensorboard{advice}"
    )


def main(_):
    """Runs the command."""
    logging.set_verbosity(logging.WARNING)
    config, window = read_config(_CONFIG.value), Window.parse(_PROFILE.value)
    _join()
    kept = _keep_programs()
    window.check(0, config.training.num_steps)
    dataset = _dataset(config)
    workdir = pathlib.Path(_WORKDIR.value)
    hosts.check_agreement(
        {
            "the version": f"{__version__} {jax.__version__}",
            "the config": json_text([config_to_dict(config), str(workdir)]),
            "the dataset": repr((dataset.vocabulary, dataset.tokenizer_sha256, dataset.lengths)),
        }
    )
    setup = Setup.of(config, dataset.vocabulary, make_mesh(config.mesh))
    jax.set_mesh(setup.mesh)
    check_training(config, setup)
    if kept and jax.process_index() == 0:
        print(f"compiled programs are kept in {kept}", file=sys.stderr)
    evaluator = Evaluator(setup, dataset, config.evaluation, config.data.max_length, config.seed)
    try:
        state = train(config, setup, dataset, workdir, evaluator.metrics, window, evaluator.samples)
    except NonFiniteLossError as error:
        print(f"stopped: {error}", file=sys.stderr)
        hosts.leave(1)
        sys.exit(1)
    stopped = state.step < config.training.num_steps
    if stopped:
        print("told to stop: all is saved, and the same command goes on from here")
    print(f"{int(state.step):,} steps; metrics: {workdir / 'metrics.jsonl'}")
    if not stopped and jax.process_index() == 0:
        print(_next_steps(workdir))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    cli.run(main)
