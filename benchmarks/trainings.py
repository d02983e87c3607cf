"""Trainings whose steps are timed: ours as `flexmdm_jax.train` runs it, and the one in PyTorch.

Each runs its steps in turns, so that several can take turns on a noisy machine. The time of the
input pipeline counts, that of compiling does not.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import numpy as np

from benchmarks.memory import peak_megabytes
from flexmdm_jax.compilation.programs import peak_on_gpu
from flexmdm_jax.config import Config, DataConfig
from flexmdm_jax.data.batches.layouts import ByLength
from flexmdm_jax.data.batches.pipeline import configured_batches
from flexmdm_jax.data.storage.records import TRAIN, Dataset
from flexmdm_jax.data.storage.shards import RecordReader
from flexmdm_jax.posterior import executed_slots, head_chunk_sizes
from flexmdm_jax.sharding import batch_sharding, make_mesh
from flexmdm_jax.training.feed import DeviceBatches
from flexmdm_jax.training.logging import memory_in_use
from flexmdm_jax.training.optimizer import make_optimizer
from flexmdm_jax.training.state import Setup, first_state, init_state
from flexmdm_jax.training.step import make_train_step

METHODS = ("flexmdm", "mdm")


# Of config.data: a row for each sequence.
PADDED = {"packing": False, "row_length": 0, "max_segments": 0}


@dataclasses.dataclass(frozen=True)
class Layout:
    """A way to lay out sequences in rows.

    Attributes:
      name: For tables.
      overrides: config.data -> the fields of it that this layout sets.
      methods: Those that know it.
      steps: A turn is a multiple of so many, so that all turns meet the same mixture of lengths.
    """

    name: str
    overrides: Callable[[DataConfig], dict[str, Any]]
    methods: tuple[str, ...] = METHODS
    steps: int = 1

    def config(self, config: Config) -> Config:
        """Returns a config with this layout in place of its own."""
        data = dataclasses.replace(config.data, buckets=(), **PADDED)
        data = dataclasses.replace(data, **self.overrides(data))
        return dataclasses.replace(config, data=data)


def _halved(data: DataConfig) -> dict[str, Any]:
    """Returns buckets of half the length, a quarter and so on, 8 slots at least."""
    lengths = (data.max_length >> halvings for halvings in range(1, data.max_length.bit_length()))
    return {"buckets": tuple(sorted(length for length in lengths if length >= 8))}


LAYOUTS = (
    Layout("padded", lambda data: {}),
    # A batch of MDM has no short rows.
    Layout("bucketed", _halved, methods=("flexmdm",), steps=ByLength.WINDOW),
    # Attention on a CPU computes every pair of a row's slots: rows are as short as they may be.
    Layout("packed", lambda data: {"packing": True}, methods=("flexmdm",)),
)


@dataclasses.dataclass(frozen=True)
class Turn:
    """What a few steps did.

    Attributes:
      steps: Their number.
      seconds: What they took.
      sequences: Trained on.
      slots: Of all rows, padding included.
      needed: FLOPs of the forward passes over slots that hold a token, the head at MASK alone.
      executed: FLOPs of what the program works off in their stead, padding included.
    """

    steps: int
    seconds: float
    sequences: int
    slots: int
    needed: float
    executed: float


class Training(Protocol):
    """Steps in turns.

    Attributes:
      compile_seconds: What first steps took: those of a shape that was not met before.
    """

    compile_seconds: float

    def turn(self, num_steps: int) -> Turn:
        """Runs num_steps steps, first steps not counted."""
        ...

    def peak_megabytes(self) -> float:
        """Returns the most memory held: of the device, or on a CPU of the process."""
        ...


@dataclasses.dataclass(frozen=True)
class _Executed:
    """What a batch makes the program do, its head left out.

    Attributes:
      sequences: In it.
      slots: Of all its rows.
      pairs: Of slots, that attention works off.
    """

    sequences: int
    slots: int
    pairs: int


def _executed(batch: Any) -> _Executed:
    """Returns what a batch of ours holds; nothing else here knows how it is made."""
    ids = np.asarray(batch.x.segment_ids)
    rows, length = ids.shape
    return _Executed(int(ids.max(axis=1).sum()), rows * length, rows * length**2)


def _shapes(batch: Any) -> tuple:
    return tuple(np.shape(leaf) for leaf in jax.tree.leaves(batch))


def _setup(config: Config, dataset: Dataset) -> Setup:
    """Returns model and process on one device."""
    return Setup.of(config, dataset.vocabulary, make_mesh(config.mesh, jax.devices()[:1]))


class Ours(Training):
    """Training as `flexmdm_jax.train` does it, from a config and a dataset."""

    def __init__(self, config: Config, dataset: Dataset):
        """Makes the first state; nothing is compiled yet but what makes it."""
        self._setup = _setup(config, dataset)
        self._chunk_sizes = head_chunk_sizes(config.model.hidden_size, dataset.vocabulary)
        optimizer = make_optimizer(config.optimizer, config.training.num_steps)
        make_state, shardings = init_state(self._setup, optimizer, config.seed)
        with jax.set_mesh(self._setup.mesh):
            self._state = first_state(make_state, shardings)
        batches = configured_batches(config, dataset, self._setup.process)
        self._batches = DeviceBatches(batches, batch_sharding(self._setup.mesh))
        self._step = make_train_step(
            config, self._setup, optimizer, shardings, batches.expected * dataset.mean_length
        )
        # Shapes -> the first batch that had them.
        self._known: dict[tuple, Any] = {}
        self.compile_seconds = 0.0

    def turn(self, num_steps: int) -> Turn:
        """Runs num_steps steps, first steps not counted."""
        done, compiling = [], self.compile_seconds
        started = time.perf_counter()
        while len(done) < num_steps:
            batch = next(self._batches)
            if not self._knows(batch):
                jax.block_until_ready(self._state)
                self._first(batch)
                continue
            metrics = self._run(batch)
            # As in training: one step is under way while the next is prepared, never more.
            if done:
                jax.block_until_ready(done[-1][1])
            done.append((batch, metrics))
        jax.block_until_ready(self._state)
        compiling = self.compile_seconds - compiling
        return self._turn(time.perf_counter() - started - compiling, done)

    def _run(self, batch: Any) -> dict[str, jax.Array]:
        with self._as_in_training():
            self._state, metrics = self._step(self._state, batch)
        return metrics

    @contextlib.contextmanager
    def _as_in_training(self) -> Iterator[None]:
        with jax.set_mesh(self._setup.mesh), jax.transfer_guard("disallow"):
            yield

    def _knows(self, batch: Any) -> bool:
        return _shapes(batch) in self._known

    def _first(self, batch: Any) -> None:
        """Takes a step that compiles."""
        started = time.perf_counter()
        jax.block_until_ready(self._run(batch))
        self._known[_shapes(batch)] = batch
        self.compile_seconds += time.perf_counter() - started

    def _turn(self, seconds: float, done: list[tuple[Any, dict[str, jax.Array]]]) -> Turn:
        flops, sizes = self._setup.model.flops, self._chunk_sizes
        sequences, slots, needed, executed = 0, 0, 0.0, 0.0
        for batch, metrics in done:
            counts = {name: float(value) for name, value in jax.device_get(metrics).items()}
            work = _executed(batch)
            masks = executed_slots(int(counts["num_masks"]), work.slots, sizes)
            sequences += work.sequences
            slots += work.slots
            needed += flops(counts["num_slots"], counts["num_pairs"], counts["num_masks"])
            executed += flops(work.slots, work.pairs, masks)
        return Turn(len(done), seconds, sequences, slots, needed, executed)

    def predicted_megabytes(self) -> float:
        """Returns what `aot` would say of the largest program so far: its peak on a GPU."""
        with self._as_in_training():
            # JAX finds the programs that have run, where all around is the same.
            programs = [self._step.lower(self._state, x).compile() for x in self._known.values()]
        return max(peak_on_gpu(program.memory_analysis()) for program in programs) / 1e6

    def peak_megabytes(self) -> float:
        """Returns the most memory held: of the device, or on a CPU of the process."""
        held = memory_in_use(jax.local_devices()[0]).get("hbm_peak_bytes")
        return peak_megabytes() if held is None else held / 1e6


def _sequences(dataset: Dataset) -> list[np.ndarray]:
    """Returns the token ids of all training sequences."""
    reader = RecordReader(dataset.shards[TRAIN])
    return [sequence.tokens for sequence in reader.read(list(range(len(reader))))]


class Torch(Training):
    """The baseline in PyTorch, eager or through torch.compile, on padded rows."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        *,
        compiled: bool,
        device: str,
        attention: str = "sdpa",
    ):
        """Makes the network on a device, cpu or gpu, with an attention of torch_baseline."""
        # The time to compile is to be seen.
        os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
        import torch

        from benchmarks import torch_baseline

        torch.set_num_threads(num_threads())
        torch.set_float32_matmul_precision("highest")
        self._device = "cuda" if device == "gpu" else "cpu"
        self._training = torch_baseline.Training(
            config,
            dataset.vocabulary,
            _sequences(dataset),
            dataset.mean_length,
            device=self._device,
            compiled=compiled,
            attention=attention,
        )
        # What steps need is counted as for ours.
        self._flops = _setup(config, dataset).model.flops
        self._rows, self._length = config.training.batch_size, config.data.max_length
        self.compile_seconds = 0.0

    def turn(self, num_steps: int) -> Turn:
        """Runs num_steps steps, the first of all not counted."""
        if not self.compile_seconds:
            self.compile_seconds, _ = self._timed(1)
        seconds, batches = self._timed(num_steps)
        needed = sum(self._flops(**batch.counts()) for batch in batches)
        slots = num_steps * self._rows * self._length
        executed = self._flops(slots, slots * self._length, slots)
        return Turn(num_steps, seconds, num_steps * self._rows, slots, needed, executed)

    def _timed(self, num_steps: int) -> tuple[float, list[Any]]:
        started = time.perf_counter()
        batches = [self._training.step()[1] for _ in range(num_steps)]
        if self._device == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter() - started, batches

    def peak_megabytes(self) -> float:
        """Returns the most memory held: of the device, or on a CPU of the process."""
        if self._device == "cpu":
            return peak_megabytes()
        import torch

        return torch.cuda.max_memory_allocated() / 1e6


def num_threads() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0))
