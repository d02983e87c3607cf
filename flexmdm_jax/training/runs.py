"""A trained run, opened for sampling and evaluation from its workdir alone."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import optax

from flexmdm_jax.config import Config
from flexmdm_jax.data.tokenizers import Tokenizer, tokenizer_hash
from flexmdm_jax.errors import UserError
from flexmdm_jax.sampling import SamplerConfig
from flexmdm_jax.sampling.batches import (
    default_buckets,
    make_generate,
    sample_batches,
    start_canvas,
)
from flexmdm_jax.sharding import make_mesh, spread_rows
from flexmdm_jax.training.checkpoints import Checkpoints
from flexmdm_jax.training.frozen import load_frozen
from flexmdm_jax.training.state import Setup, init_state, sharded_shapes
from flexmdm_jax.training.workdir import (
    Experiment,
    load_experiment,
    load_run_tokenizer,
    write_experiment,
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model with all that belongs to it.

    Attributes:
      experiment: Config and vocabulary.
      setup: Model and laws.
      tokenizer: The one it was trained with.
      step: Steps behind the parameters.
      params: Averaged parameters, frozen ones included.
    """

    experiment: Experiment
    setup: Setup
    tokenizer: Tokenizer
    step: int
    params: Any


def open_run(workdir: str, base: str = "") -> Run:
    """Returns the run in a workdir, with its newest readable parameters.

    Args:
      workdir: Of the run.
      base: Where a LLaDA's frozen parameters lie, if not where its config says.

    Raises:
      UserError: If there is no run, no readable checkpoint, or the tokenizer or the base is another
        one.
    """
    path = pathlib.Path(workdir)
    experiment = load_experiment(path)
    tokenizer = load_run_tokenizer(path, experiment)
    config = experiment.config
    setup = Setup.of(config, experiment.vocabulary, make_mesh(config.mesh))
    setup = dataclasses.replace(setup, base=base or setup.base)
    trained, frozen = parameter_shapes(setup)
    checkpoints = Checkpoints(path, experiment, read_only=True)
    step, params = checkpoints.restore_ema(trained)
    checkpoints.close()
    params = setup.whole(params, load_frozen(setup, frozen))
    # The parameters stay on the devices they were restored to.
    jax.block_until_ready(params)
    return Run(experiment, setup, tokenizer, step, params)


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


def parameter_shapes(setup: Setup) -> tuple[Any, Any]:
    """Returns shapes, types and shardings of a model's (trained, frozen) parameters."""
    state = sharded_shapes(*init_state(setup, optax.identity(), seed=0))
    return state.params, state.frozen


def generate_texts(
    run: Run,
    sampler: SamplerConfig,
    *,
    num: int,
    batch_size: int = 64,
    seed: int = 0,
    prefix: str = "",
    suffix: str = "",
) -> Iterator[dict[str, Any]]:
    """Yields num samples as {"text", "tokens", "length", "truncated"}.

    Args:
      run: From open_run().
      sampler: How to sample; length buckets are chosen here.
      num: Samples; sample i depends on (seed, i) alone.
      batch_size: Samples at a time, rounded up to a multiple of the devices that share them.
      seed: Decides all noise.
      prefix: Text to continue.
      suffix: Text to lead up to, FlexMDM only.

    Raises:
      UserError: If prefix and suffix leave no room, or the method cannot take a suffix or blocks.
    """
    setup, length = run.setup, run.experiment.config.data.max_length
    sampler = dataclasses.replace(sampler, length_buckets=default_buckets(length))
    try:
        sampler.num_blocks(length, setup.insertion)
        canvas = start_canvas(
            setup.round_up(min(batch_size, num)),
            length,
            insertion=setup.insertion,
            vocabulary=setup.vocabulary,
            prefix=tuple(run.tokenizer.encode(prefix)),
            suffix=tuple(run.tokenizer.encode(suffix)),
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    generate = make_generate(setup.denoiser, sampler, setup.laws, setup.num_groups)
    generate = spread_rows(setup.mesh, generate)
    for batch in sample_batches(generate, run.params, canvas, num=num, seed=seed):
        for sequence, truncated in zip(batch.sequences(), batch.truncated, strict=True):
            tokens = sequence.tolist()
            yield {
                "text": run.tokenizer.decode(tokens),
                "tokens": tokens,
                "length": len(tokens),
                "truncated": bool(truncated),
            }
