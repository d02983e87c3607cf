"""Runs made of weights from elsewhere, and weights taken out of runs."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import traverse_util

from flexmdm_jax.config import Config
from flexmdm_jax.conversion.base import Base
from flexmdm_jax.conversion.merging import merge_adapters
from flexmdm_jax.conversion.peft import write_peft
from flexmdm_jax.data.tokenizers import Tokenizer, tokenizer_hash
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import new_folder, refuse_pattern
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.checkpoints import Checkpoints, restore_average
from flexmdm_jax.training.frozen import open_matching_base
from flexmdm_jax.training.state import (
    Setup,
    first_state,
    init_state,
    parameter_shapes,
    sharded_shapes,
)
from flexmdm_jax.training.tables import resize_tables
from flexmdm_jax.training.workdir import (
    Experiment,
    load_experiment,
    load_run_tokenizer,
    write_experiment,
)


def write_run(workdir: pathlib.Path, config: Config, tokenizer: Tokenizer, params: Any) -> None:
    """Writes parameters from elsewhere as a run to sample from, evaluate and start others from.

    Args:
      workdir: Must exist.
      config: The experiment; where its data lies does not matter.
      tokenizer: Of the vocabulary.
      params: What the run trains, see Setup.split().
    """
    experiment = Experiment(config, tokenizer.vocabulary, tokenizer_hash(tokenizer))
    write_experiment(workdir, experiment, tokenizer)
    checkpoints = Checkpoints(workdir, experiment)
    checkpoints.save_average(0, params)
    checkpoints.close()


def import_run(
    out: pathlib.Path, config: Config, tokenizer: Tokenizer, read: Callable[[Setup, Any], Any]
) -> None:
    """Writes a run whose parameters come from elsewhere; it can be sampled and started from.

    Args:
      out: Workdir to make.
      config: The experiment they belong to.
      tokenizer: Of its vocabulary.
      read: (setup, shapes of what a run trains) -> parameters; those left out are drawn as for a
        new run.

    Raises:
      UserError: If out holds files or checkpoints cannot lie there.
    """
    refuse_pattern(out)
    setup = Setup.of(config, tokenizer.vocabulary, make_mesh(config.mesh))
    experiment = Experiment(config, tokenizer.vocabulary, tokenizer_hash(tokenizer))
    make_state, shardings = init_state(setup, optax.identity(), config.seed)
    like = experiment.stored_shapes(sharded_shapes(make_state, shardings).params)
    imported = traverse_util.flatten_dict(read(setup, like))
    first = resize_tables(first_state(make_state, shardings).params, like)
    params = traverse_util.flatten_dict(first)
    for path, value in imported.items():
        params[path] = jax.device_put(value, params[path].sharding)
    with new_folder(out) as partial:
        write_run(partial, config, tokenizer, traverse_util.unflatten_dict(params))


@dataclasses.dataclass(frozen=True)
class _Adapted:
    """A run with adapters, its parameters on the host."""

    experiment: Experiment
    setup: Setup
    tokenizer: Tokenizer
    base: Base
    params: Any


def _open_adapted(workdir: pathlib.Path, base: str) -> _Adapted:
    experiment = load_experiment(workdir)
    tokenizer = load_run_tokenizer(workdir, experiment)
    config = experiment.config
    setup = Setup.of(config, experiment.vocabulary, make_mesh(config.mesh))
    setup = dataclasses.replace(setup, base=base or setup.base)
    if getattr(setup.model, "lora", None) is None:
        raise UserError(f"{workdir} has no adapters: config.model.llada.lora.rank is 0")
    _, params = restore_average(workdir, experiment, parameter_shapes(setup)[0])
    found = open_matching_base(setup)
    return _Adapted(experiment, setup, tokenizer, found, jax.device_get(params))


def merge_run(workdir: pathlib.Path, out: pathlib.Path, base: str = "") -> None:
    """Writes a run without adapters, on a base of its own into which they are folded.

    Args:
      workdir: A trained run.
      out: Workdir to make; its base is out/base.
      base: Of the run, if not where its config says.

    Raises:
      UserError: If there is nothing to merge, or out holds files.
    """
    refuse_pattern(out)
    run = _open_adapted(workdir, base)
    model = run.experiment.config.model
    llada = dataclasses.replace(
        model.llada, base=str(out / "base"), lora=dataclasses.replace(model.llada.lora, rank=0)
    )
    config = dataclasses.replace(
        run.experiment.config,
        model=dataclasses.replace(model, llada=llada),
        # Patterns may name adapters.
        optimizer=dataclasses.replace(run.experiment.config.optimizer, group_learning_rates={}),
    )
    with new_folder(out) as partial:
        rest = merge_adapters(run.base, run.params, run.setup.model.lora.scale, partial / "base")
        write_run(partial, config, run.tokenizer, rest)


def export_adapters(workdir: pathlib.Path, out: pathlib.Path, base: str = "") -> None:
    """Writes the adapters of a run as a PEFT folder.

    Args:
      workdir: A trained run.
      out: Folder to make.
      base: Of the run, if not where its config says.

    Raises:
      UserError: If there are none, or out holds files.
    """
    run = _open_adapted(workdir, base)
    write_peft(out, run.params, run.base.architecture, run.setup.model.lora, str(run.base.folder))
