"""The loop over steps: feed, step, log, evaluate, save."""

import contextlib
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from flexmdm_jax.attention.blocks import DoesNotFitError
from flexmdm_jax.config import Config
from flexmdm_jax.data.batches.packing import Bins
from flexmdm_jax.data.batches.pipeline import configured_batches
from flexmdm_jax.data.storage.records import Dataset
from flexmdm_jax.errors import UserError
from flexmdm_jax.hosts import Preemption, first_process_first, of_first_process
from flexmdm_jax.sharding import batch_sharding
from flexmdm_jax.training.checkpoints import Checkpoints
from flexmdm_jax.training.console import Console, padding_warning
from flexmdm_jax.training.feed import DeviceBatches
from flexmdm_jax.training.frozen import load_frozen, start_from
from flexmdm_jax.training.logging import (
    MetricsWriter,
    Stopwatch,
    memory_in_use,
    utilization,
)
from flexmdm_jax.training.optimizer import make_optimizer
from flexmdm_jax.training.profiling import NO_PROFILE, Profiler, Window
from flexmdm_jax.training.state import Setup, TrainState, first_state, init_state, sharded_shapes
from flexmdm_jax.training.step import make_train_step
from flexmdm_jax.training.workdir import (
    CHECKPOINTS,
    Experiment,
    check_workdir,
    owned_workdir,
    write_experiment,
)
from flexmdm_jax.types import TENSOR_AXIS

Evaluate = Callable[[Any], dict[str, float]]
Sample = Callable[[Any], list[dict[str, Any]]]


_NOTHING = contextlib.nullcontext()


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient was not finite; the run's last checkpoint is good."""


def train(
    config: Config,
    setup: Setup,
    dataset: Dataset,
    workdir: pathlib.Path,
    evaluate: Evaluate,
    profile: Window = NO_PROFILE,
    sample: Sample | None = None,
) -> TrainState:
    """Returns the state after config.training.num_steps steps, resuming from the workdir.

    A notice to stop (SIGTERM) ends it earlier, with everything saved. The workdir becomes the run's
    once the parameters and the first batch are on the devices; what is rejected leaves nothing.

    Args:
      config: The experiment.
      setup: Its model and process.
      dataset: Where examples come from.
      workdir: Checkpoints and metrics.
      evaluate: averaged parameters -> metrics, called every evaluate_every steps and at the end,
        unless that is 0.
      profile: Steps to trace.
      sample: averaged parameters -> texts with their figures, called every sample_every steps.

    Raises:
      NonFiniteLossError: With the step; nothing after it is saved.
      UserError: If the batch does not split over the devices, the profile's steps are not taken, or
        the workdir is that of another run, or another process is at work in it.
    """
    _check_batch(config, setup)
    optimizer = make_optimizer(config.optimizer, config.training.num_steps)
    make_state, shardings = init_state(setup, optimizer, config.seed)
    like = sharded_shapes(make_state, shardings)
    _check_attention(config, setup, like)
    batches = _device_batches(config, setup, dataset)
    with contextlib.ExitStack() as held:

        def take() -> Experiment:
            held.enter_context(owned_workdir(workdir))
            return check_workdir(workdir, config, dataset)

        experiment = first_process_first(take)
        checkpoints = Checkpoints(workdir, experiment, keep=config.training.keep_checkpoints)
        held.callback(checkpoints.close)
        state = checkpoints.restore(like, batches)
        if state is None:
            state = start_from(config, setup, first_state(make_state, shardings), like)
        state = jax.block_until_ready(state.replace(frozen=load_frozen(setup, like.frozen)))
        profile.check(int(state.step), config.training.num_steps)
        step = make_train_step(
            config, setup, optimizer, shardings, batches.expected * dataset.mean_length
        )
        batches.send_ahead()
        first_process_first(lambda: _claim(workdir, experiment, dataset))
        looks = _Looks(evaluate, sample)
        run = _Run(config, setup, workdir, checkpoints, looks, profile, int(state.step))
        try:
            with Preemption() as preemption:
                return run.loop(step, state, batches, preemption)
        finally:
            run.close()


def _device_batches(config: Config, setup: Setup, dataset: Dataset) -> DeviceBatches:
    batches = configured_batches(
        config,
        dataset,
        setup.process,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return DeviceBatches(batches, batch_sharding(setup.mesh))


def _check_attention(config: Config, setup: Setup, state: TrainState) -> None:
    """Raises UserError if the attention cannot take such rows; nothing is computed.

    Args:
      config: The experiment.
      setup: Its model and mesh.
      state: Shapes.
    """
    bins = Bins.of(config)
    rows = bins.rows // config.training.accumulation_steps
    slots = jax.ShapeDtypeStruct((rows, bins.length), np.int32)
    alpha = jax.ShapeDtypeStruct((rows, bins.segments), np.float32)

    def encode(trained, frozen, tokens, segment_ids, alpha):
        denoiser = setup.denoiser(setup.whole(trained, frozen))
        return denoiser.encode(tokens, segment_ids, alpha).gaps

    try:
        jax.eval_shape(encode, state.params, state.frozen, slots, slots, alpha)
    except DoesNotFitError as error:
        raise UserError(f"config.data: {error}") from None


def _claim(workdir: pathlib.Path, experiment: Experiment, dataset: Dataset) -> None:
    if jax.process_index() == 0:
        write_experiment(workdir, experiment, dataset.tokenizer())


def _check_batch(config: Config, setup: Setup) -> None:
    rows = config.training.batch_size // config.training.accumulation_steps
    if rows % setup.num_groups or config.training.batch_size % jax.process_count():
        raise UserError(
            f"config.training: {rows} rows at a time do not split over {setup.num_groups} devices "
            f"and {jax.process_count()} hosts; change batch_size or accumulation_steps"
        )
    for sharing in setup.mesh.devices.reshape(-1, setup.mesh.shape[TENSOR_AXIS]):
        # Each process feeds its own rows, and these devices need the same ones.
        if len({device.process_index for device in sharing}) > 1:
            raise UserError(
                f"config.mesh.tensor = {len(sharing)} spans several hosts; "
                "it must divide the devices of one"
            )


class _Looks(NamedTuple):
    """What is done with the parameters of the moment."""

    evaluate: Evaluate
    sample: Sample | None


class _Run:
    """The loop's helpers around one run: bookkeeping between steps."""

    def __init__(
        self,
        config: Config,
        setup: Setup,
        workdir: pathlib.Path,
        checkpoints: Checkpoints,
        looks: _Looks,
        profile: Window,
        first: int,
    ):
        self._first = first
        self._config = config.training
        self._data = config.data
        self._setup = setup
        self._checkpoints = checkpoints
        self._looks = looks
        self._writer = MetricsWriter(workdir)
        self._console = Console(first, config.training.num_steps)
        self._checkpoint_folder = workdir / CHECKPOINTS
        self._watch = Stopwatch()
        self._profiler = Profiler(profile, workdir)
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []

    def loop(
        self, step, state: TrainState, batches: DeviceBatches, preemption: Preemption
    ) -> TrainState:
        first, last = self._first, self._config.num_steps
        for number in range(first + 1, last + 1):
            self._profiler.before(number)
            with self._console.compiling("the step") if number == first + 1 else _NOTHING:
                state, metrics = self._step(step, state, batches)
            self._profiler.after(number, metrics)
            self._pending.append((number, metrics))
            self._console.advance()
            stop = preemption.due(number)
            # The first step of a process compiles; its time says nothing.
            if number % self._config.log_every == 0 or number in (first + 1, last) or stop:
                self._log(number)
            # What takes long comes after what keeps the run.
            if number % self._config.checkpoint_every == 0 or number == last or stop:
                self._save(state, batches)
            every = self._config.evaluate_every
            if every and (number % every == 0 or number == last):
                self._look(number, state)
            if self._config.sample_every and number % self._config.sample_every == 0:
                self._sample(number, state)
            if stop:
                break
        # It was interrupted while it was evaluated for the last time.
        unfinished = first == last and self._config.evaluate_every
        if unfinished and not of_first_process(self._writer.evaluated(last)):
            self._look(last, state)
        self._checkpoints.wait()
        return state

    def _step(self, step, state: TrainState, batches: DeviceBatches):
        """Returns step(state, next batch); nothing moves between host and devices unasked."""
        with self._watch.waiting_for_input():
            batch = next(batches)
        with jax.transfer_guard("disallow"):
            state, metrics = step(state, batch)
        # One step is under way while the next is prepared, never more: so the time of each is seen.
        if self._pending:
            jax.block_until_ready(self._pending[-1][1])
        self._watch.step()
        return state, metrics

    def _log(self, number: int) -> None:
        """Writes the mean metrics since the last line."""
        self._settle()
        self._checkpoints.raise_failures()
        steps, self._pending = [metrics for _, metrics in self._pending], []
        times = self._watch.lap()
        mean = {name: float(np.mean([m[name] for m in steps])) for name in steps[0]}
        rate = times["steps_per_second"]
        flops = self._setup.model.flops(mean["num_slots"], mean["num_pairs"], mean["num_masks"])
        # The backward pass costs twice the forward pass.
        flops_per_second = 3 * flops * rate
        devices = self._setup.mesh.devices.flatten().tolist()
        tokens_per_second = mean["num_tokens"] * rate
        kept = ("loss", "unmasking_loss", "insertion_loss", "grad_norm", "learning_rate")
        line = {
            **{name: mean[name] for name in kept},
            "tokens_per_second": tokens_per_second,
            "sequences_per_second": mean["num_sequences"] * rate,
            "fill": mean["num_slots"] / mean["num_places"],
            "model_flops_per_second": flops_per_second,
            **times,
            **utilization(flops_per_second, devices),
            **memory_in_use(jax.local_devices()[0]),
        }
        self._writer.write(number, line)
        self._console.show(line)
        # One batch alone says little of all of them.
        if number > self._first + 1 and (warning := padding_warning(line["fill"], self._data)):
            self._console.tell_once("padding", warning)

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
        self._console.tell_once("evaluating", "evaluating; the first time is also to compile")
        self._console.say("evaluating")
        started = time.perf_counter()
        metrics = self._looks.evaluate(self._setup.whole(state.ema, state.frozen))
        self._writer.write(number, {f"eval/{name}": value for name, value in metrics.items()})
        self._console.evaluated(number, metrics, time.perf_counter() - started)
        self._watch.resume()

    def _sample(self, number: int, state: TrainState) -> None:
        if self._looks.sample:
            self._watch.pause()
            self._console.say("sampling")
            samples = self._looks.sample(self._setup.whole(state.ema, state.frozen))
            self._writer.write_samples(number, samples)
            self._console.sampled(number, samples)
            self._watch.resume()

    def _save(self, state: TrainState, batches: DeviceBatches) -> None:
        """Saves, but never past a step that was not finite."""
        self._watch.pause()
        self._settle()
        self._checkpoints.save(state, batches)
        number = int(state.step)
        self._console.saved(number, self._checkpoint_folder, self._config.keep_checkpoints)
        self._watch.resume()

    def close(self) -> None:
        self._profiler.close()
        self._console.close()
        self._writer.close()
