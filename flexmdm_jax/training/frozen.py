"""Parameters that a run begins with: a base, frozen or not, and what another run has learned."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from flexmdm_jax.config import Config, changed_fields
from flexmdm_jax.conversion.architecture import Architecture
from flexmdm_jax.conversion.base import Base, open_base
from flexmdm_jax.errors import UserError
from flexmdm_jax.training.checkpoints import restore_average
from flexmdm_jax.training.state import Setup, TrainState
from flexmdm_jax.training.workdir import load_experiment


def load_frozen(setup: Setup, like: Any) -> Any:
    """Returns the frozen parameters of a model, spread over the devices; a DiT has none.

    Args:
      setup: Says where they lie.
      like: Their shapes, types and shardings.

    Raises:
      UserError: If they are missing, damaged, or of another architecture.
    """
    if not like:
        return {}
    return open_matching_base(setup).restore(like)


def open_matching_base(setup: Setup) -> Base:
    """Returns the base of a setup.

    Raises:
      UserError: If it is missing, damaged, or of another architecture.
    """
    if not setup.base:
        raise UserError(
            "config.model.llada.base is empty; name the folder that "
            "python -m flexmdm_jax.convert llada wrote"
        )
    base = open_base(setup.base)
    sizes = [field.name for field in dataclasses.fields(Architecture) if field.name != "family"]
    differences = [
        f"{name} = {getattr(base.architecture, name)!r} instead of {getattr(setup.model, name)!r}"
        for name in sizes
        if getattr(base.architecture, name) != getattr(setup.model, name)
    ]
    if differences:
        raise UserError(
            f"{setup.base} holds another model than config.model: {', '.join(differences)}"
        )
    return base


def start_from(config: Config, setup: Setup, state: TrainState, like: TrainState) -> TrainState:
    """Returns a first state with the averaged parameters of config.training.start, if it names one.

    Without one, a LLaDA that is trained whole starts from its base.

    Raises:
      UserError: If there is no such run, its model is another one, or there is no such base.
    """
    if not config.training.start:
        return _start_from_base(setup, state, like) if setup.trains_base else state
    workdir = pathlib.Path(config.training.start)
    experiment = load_experiment(workdir)
    # The longest row scales the insertion head.
    decisive = ("model.", "method", "data.max_length")[: 3 if config.method == "flexmdm" else 2]
    changes = [
        change
        for change in changed_fields(experiment.config, config)
        if change.startswith(decisive)
    ]
    if changes:
        raise UserError(
            f"config.training.start: {workdir} holds another model ({'; '.join(changes)})"
        )
    _, params = restore_average(workdir, experiment, like.params)
    return _with_parameters(state, params)


def _start_from_base(setup: Setup, state: TrainState, like: TrainState) -> TrainState:
    added, _ = setup.parts(state.params)
    _, base = setup.parts(like.params)
    return _with_parameters(state, setup.whole(added, open_matching_base(setup).restore(base)))


def _with_parameters(state: TrainState, params: Any) -> TrainState:
    return state.replace(params=params, ema=jax.tree.map(jnp.copy, params))
