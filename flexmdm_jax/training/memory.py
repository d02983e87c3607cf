"""Whether what is asked for can fit a machine at all, before it is made to swap or killed."""

import os
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from flexmdm_jax.config import Config
from flexmdm_jax.errors import UserError
from flexmdm_jax.training.state import Setup, parameter_shapes

# Parameters, their average and AdamW's two moments.
_COPIES_IN_TRAINING = 4


def check_training(config: Config, setup: Setup) -> None:
    """Raises UserError if a training step or an evaluation cannot fit this machine's memory.

    Accelerators are not asked: their compilers say in a moment what does not fit.
    """
    if jax.default_backend() != "cpu":
        return
    data = config.data
    trained, frozen = parameter_shapes(setup)
    state = _COPIES_IN_TRAINING * _bytes_of(trained) + _bytes_of(frozen)
    rows = config.training.batch_size // config.training.accumulation_steps
    advice = "lower config.{}.batch_size, config.data.{} or the sizes of config.model"
    length = "row_length" if data.row_length else "max_length"
    batches = {
        ("training", length): (rows, data.slots),
        ("evaluation", "max_length"): (config.evaluation.batch_size, data.max_length),
    }
    for names, (count, slots) in batches.items():
        count = -(-count // jax.process_count())
        needed = {"parameters and optimizer": state} | bytes_of_a_batch(config, count, slots)
        _check(needed, advice.format(*names))


def check_sampling(config: Config, rows: int) -> None:
    """Raises UserError if a batch of samples cannot fit this machine's memory; see above."""
    if jax.default_backend() == "cpu":
        rows = -(-rows // jax.process_count())
        _check(bytes_of_a_batch(config, rows, config.data.max_length), "lower --batch_size")


def bytes_of_a_batch(config: Config, rows: int, length: int) -> dict[str, int]:
    """Returns bytes of what one layer certainly holds for a batch, by what it is."""
    model = config.model
    features = rows * length * model.hidden_size * jnp.dtype(model.compute_dtype).itemsize
    is_dense = (model.attention or "xla") == "xla"
    scores = 4 * rows * model.num_heads * length**2 * is_dense
    gaps = 4 * rows * length * config.gap_classes
    batch = f"{rows:,} rows of {length:,} slots"
    return {
        f"features of {batch}": features,
        f"attention within {batch}": scores,
        f"gap distributions of {batch}": gaps,
    }


def _bytes_of(shapes) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def _check(needed: Mapping[str, int], advice: str) -> None:
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if sum(needed.values()) <= there:
        return
    large = {what: size / 1e9 for what, size in needed.items() if size > there / 100}
    parts = ", ".join(f"{what}: {size:,.1f} GB" for what, size in large.items())
    raise UserError(
        f"more memory is needed than the {there / 1e9:,.1f} GB of this machine, even if there were "
        f"one layer only ({parts}); {advice}"
    )
