"""The loop over steps: feed, step, log, evaluate, save."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from flexmdm_jax.config import Config, TrainingConfig
from flexmdm_jax.data.pipeline import arrange_for, train_batches
from flexmdm_jax.data.records import Dataset
from flexmdm_jax.data.tasks.infilling import choose_for
from flexmdm_jax.errors import UserError
from flexmdm_jax.sharding import batch_sharding
from flexmdm_jax.training.checkpoints import Checkpoints
from flexmdm_jax.training.feed import DeviceBatches
from flexmdm_jax.training.frozen import load_frozen, start_from
from flexmdm_jax.training.logging import MetricsWriter, Progress, Stopwatch
from flexmdm_jax.training.optimizer import make_optimizer
from flexmdm_jax.training.state import Setup, TrainState, first_state, init_state, sharded_shapes
from flexmdm_jax.training.step import make_train_step
from flexmdm_jax.training.workdir import Experiment

Evaluate = Callable[[Any], dict[str, float]]


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient was not finite; the run's last checkpoint is good."""


def train(
    config: Config,
    setup: Setup,
    dataset: Dataset,
    experiment: Experiment,
    workdir: pathlib.Path,
    evaluate: Evaluate,
) -> TrainState:
    """Returns the state after config.training.num_steps steps, resuming from the workdir.

    Args:
      config: The experiment.
      setup: Its model and laws.
      dataset: Where examples come from.
      experiment: What checkpoints say of the run.
      workdir: Checkpoints and metrics.
      evaluate: averaged parameters -> metrics, called every evaluate_every steps and at the end.

    Raises:
      NonFiniteLossError: With the step; nothing after it is saved.
      UserError: If the batch does not split over the devices.
    """
    _check_batch(config, setup)
    optimizer = make_optimizer(config.optimizer, config.training.num_steps)
    make_state, shardings = init_state(setup, optimizer, config.seed)
    batches = DeviceBatches(
        train_batches(
            dataset,
            length=config.data.max_length,
            batch_size=config.training.batch_size,
            seed=config.seed,
            arrange=arrange_for(setup.insertion),
            choose=choose_for(dataset.task, setup.insertion, config.seed),
            buckets=config.data.buckets,
            workers=config.data.workers,
            prefetch=config.data.prefetch,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ),
        batch_sharding(setup.mesh),
    )
    checkpoints = Checkpoints(workdir, experiment, keep=config.training.keep_checkpoints)
    like = sharded_shapes(make_state, shardings)
    state = checkpoints.restore(like, batches)
    if state is None:
        state = first_state(make_state, shardings)
        state = start_from(config, state, like)
    state = state.replace(frozen=load_frozen(setup, like.frozen))
    step = make_train_step(config, setup, optimizer, shardings)
    run = _Run(config.training, setup, workdir, checkpoints, evaluate, first=int(state.step))
    try:
        return run.loop(step, state, batches)
    finally:
        run.close()


def _check_batch(config: Config, setup: Setup) -> None:
    rows = config.training.batch_size // config.training.accumulation_steps
    if rows % setup.num_groups or config.training.batch_size % jax.process_count():
        raise UserError(
            f"config.training: {rows} rows at a time do not split over {setup.num_groups} devices "
            f"and {jax.process_count()} hosts; change batch_size or accumulation_steps"
        )


class _Run:
    """The loop's helpers around one run: bookkeeping between steps."""

    def __init__(
        self,
        config: TrainingConfig,
        setup: Setup,
        workdir: pathlib.Path,
        checkpoints: Checkpoints,
        evaluate: Evaluate,
        first: int,
    ):
        self._first = first
        self._config = config
        self._setup = setup
        self._checkpoints = checkpoints
        self._evaluate = evaluate
        self._writer = MetricsWriter(workdir)
        self._progress = Progress(first, config.num_steps)
        self._watch = Stopwatch()
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []

    def loop(self, step, state: TrainState, batches: DeviceBatches) -> TrainState:
        first, last = self._first, self._config.num_steps
        for number in range(first + 1, last + 1):
            state, metrics = step(state, next(batches))
            self._pending.append((number, metrics))
            self._progress.advance()
            # The first step of a process compiles; its time says nothing.
            if number % self._config.log_every == 0 or number in (first + 1, last):
                self._log(number)
            if number % self._config.evaluate_every == 0 or number == last:
                self._look(number, state)
            if number % self._config.checkpoint_every == 0 or number == last:
                self._save(state, batches)
        self._checkpoints.wait()
        return state

    def _log(self, number: int) -> None:
        """Writes the mean metrics since the last line."""
        self._settle()
        steps, self._pending = [metrics for _, metrics in self._pending], []
        seconds = self._watch.lap()
        mean = {name: float(np.mean([m[name] for m in steps])) for name in steps[0]}
        rate = len(steps) / seconds
        flops = self._setup.model.flops(mean["num_slots"], mean["num_pairs"], mean["num_masks"])
        tokens_per_second = mean["num_tokens"] * rate
        kept = ("loss", "unmasking_loss", "insertion_loss", "grad_norm", "learning_rate")
        line = {name: mean[name] for name in kept} | {
            "tokens_per_second": tokens_per_second,
            # The backward pass costs twice the forward pass.
            "model_flops_per_second": 3 * flops * rate,
            "steps_per_second": rate,
        }
        self._writer.write(number, line)
        self._progress.show(line["loss"], tokens_per_second)

    def _settle(self) -> None:
        """Waits for the metrics of the steps that are not logged yet; all must be finite."""
        self._pending = jax.device_get(self._pending)
        for number, metrics in self._pending:
            if not metrics["finite"]:
                raise NonFiniteLossError(
                    f"step {number}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}; "
                    "the last checkpoint is good, a lower learning rate may help"
                )

    def _look(self, number: int, state: TrainState) -> None:
        self._watch.pause()
        metrics = self._evaluate(self._setup.whole(state.ema, state.frozen))
        self._writer.write(number, {f"eval/{name}": value for name, value in metrics.items()})
        self._watch.resume()

    def _save(self, state: TrainState, batches: DeviceBatches) -> None:
        """Saves, but never past a step that was not finite."""
        self._watch.pause()
        self._settle()
        self._checkpoints.save(state, batches)
        self._watch.resume()

    def close(self) -> None:
        self._progress.close()
        self._writer.close()
        self._checkpoints.close()
