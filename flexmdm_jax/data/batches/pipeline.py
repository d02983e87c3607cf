"""From records to batches of rows, in an order that the seed alone decides (see order.py)."""

import copy
import dataclasses
import sys
from collections.abc import Iterator

import grain
import numpy as np
from jaxtyping import Int

from flexmdm_jax.config import Config
from flexmdm_jax.data.batches.examples import Examples, lay_out, lengths_tell
from flexmdm_jax.data.batches.layouts import ByLength, InOrder, Layout, Packed
from flexmdm_jax.data.batches.order import LengthTable, Order, spread
from flexmdm_jax.data.batches.packing import Bins
from flexmdm_jax.data.batches.rows import Arrange, Row, clean_rows
from flexmdm_jax.data.storage.records import METADATA, VALIDATION, Dataset
from flexmdm_jax.data.storage.shards import RecordReader
from flexmdm_jax.data.tasks.closing import Close
from flexmdm_jax.data.tasks.infilling import Choose
from flexmdm_jax.errors import UserError
from flexmdm_jax.hosts import check_workers
from flexmdm_jax.process import Process
from flexmdm_jax.types import Batch


class TrainBatches(Iterator[Row]):
    """An endless iterator of training batches (dicts with the fields of Corrupted).

    Its state is the number of examples taken, which says the same on any number of processes.
    """

    def __init__(self, steps: "_Steps", *, workers: int, prefetch: int):
        """Starts at example 0; see train_batches()."""
        self._steps, self._workers, self._prefetch = steps, workers, prefetch
        self._taken = 0
        self._stream: Iterator[Row] | None = None

    @property
    def expected(self) -> float:
        """Returns how many examples a batch holds on average, over all processes."""
        return self._steps.layout.expected()

    def __next__(self) -> Row:
        if self._stream is None:
            self._stream = iter(self._from(self._taken))
        batch = dict(next(self._stream))
        self._taken = int(batch.pop(_STOP))
        return batch

    def _from(self, taken: int) -> grain.IterDataset:
        # The thread of a stream that was left may still be planning.
        layout = copy.copy(self._steps.layout)
        steps = dataclasses.replace(self._steps, layout=layout, taken=taken)
        batches = grain.MapDataset.source(steps)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=self._prefetch)
        batches = batches.to_iter_dataset(options)
        if self._workers:
            return batches.mp_prefetch(
                grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=self._prefetch)
            )
        return batches

    def get_state(self) -> dict[str, int]:
        """Returns the position, for set_state()."""
        return {"examples": self._taken}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to a position that get_state() returned, here or in another process."""
        if "batches" in state:
            # An older version counted batches, which all had the same number of examples.
            state = {"examples": state["batches"] * round(self.expected)}
        self._taken = state["examples"]
        self._stream = None


# Beside a batch's fields: how many examples have been taken after it.
_STOP = "stop"


@dataclasses.dataclass(frozen=True)
class _Steps:
    """One process's rows of every step, by how many steps it comes after `taken` examples.

    Attributes:
      layout: Of all processes' rows.
      examples: What lies in them.
      share: The process's rows.
      end: Stands at padding.
      taken: Where it starts.
    """

    layout: Layout
    examples: Examples
    share: slice
    end: int
    taken: int = 0

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, number: int) -> Row:
        plan = self.layout.plan(self.taken, int(number))
        mine = np.arange(plan.bins.rows)[self.share]
        # Of each row, its place among this process's.
        place = np.full(plan.bins.rows, -1)
        place[mine] = np.arange(len(mine))
        rows = place[plan.rows]
        kept = rows >= 0
        numbers = plan.numbers[kept]
        x = self.examples.at_their_times(plan.records[kept], numbers)
        if np.bincount(rows[kept], weights=x.sizes).max() > plan.bins.length:
            raise UserError(
                f"{self.examples.where}: its .lengths, or the tokens that {METADATA} counts as "
                "given, are not those of its sequences; prepare the dataset again"
            )
        shape = (len(mine), plan.bins.length, plan.bins.segments)
        return lay_out(x, numbers, rows[kept], shape, self.end) | {_STOP: plan.stop}


def train_batches(
    dataset: Dataset,
    process: Process,
    *,
    length: int,
    batch_size: int,
    seed: int,
    time_warp: float = 1.0,
    buckets: tuple[int, ...] = (),
    packed: Bins | None = None,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    prefetch: int = 4,
) -> TrainBatches:
    """Returns an endless iterator of training batches.

    Examples are shuffled anew every epoch, and each is shown at a time of its own. The order is
    global: every step takes the same examples whatever the number of processes, of which each makes
    its share of the rows.

    Args:
      dataset: From open_data().
      process: FlexMDM's or MDM's.
      length: Slots of the longest sequence.
      batch_size: Rows of a batch over all processes.
      seed: Decides the order, times and noise.
      time_warp: See stratified_times().
      buckets: Shorter lengths that a batch's rows may have; none pads all to `length`.
      packed: Fill these rows instead with several sequences each; batch_size is their number.
      process_index: This process.
      process_count: How many processes there are; must divide batch_size.
      workers: Processes that read ahead; 0 reads ahead in a thread.
      prefetch: Batches to read ahead, of each worker.

    Raises:
      UserError: If the dataset's sequences do not fit the rows, or buckets or packing do not fit
        the method.
    """
    _check_length(dataset, length)
    order = Order(dataset, seed)
    if (buckets or packed) and not process.inserts:
        raise UserError(
            f"config.data.{'buckets' if buckets else 'packing'}: MDM fills every row with END and "
            "learns to predict it, so no slot is left over; leave it out"
        )
    known = LengthTable(dataset) if buckets or (packed and lengths_tell(dataset, process)) else None
    examples = Examples(
        dataset, process, length=length, seed=seed, time_warp=time_warp, lengths=known
    )
    layout: Layout
    if packed:
        layout = Packed(order, examples, packed)
    elif buckets:
        lengths = (*buckets, length)
        layout = ByLength(order, known, batch_size=batch_size, buckets=lengths, seed=seed)
    else:
        layout = InOrder(order, batch_size=batch_size, length=length)
    share = slice(process_index, None, process_count)
    steps = _Steps(layout, examples, share, process.vocabulary.end)
    return TrainBatches(steps, workers=workers, prefetch=prefetch)


def configured_batches(
    config: Config,
    dataset: Dataset,
    process: Process,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainBatches:
    """Returns the training batches of an experiment; see train_batches().

    Raises:
      UserError: If data.workers are more than this machine takes, too.
    """
    check_workers("config.data.workers", config.data.workers)
    return train_batches(
        dataset,
        process,
        length=config.data.max_length,
        batch_size=config.training.batch_size,
        seed=config.seed,
        time_warp=config.training.time_warp,
        buckets=config.data.buckets,
        packed=Bins.of(config) if config.data.packing else None,
        workers=config.data.workers,
        prefetch=config.data.prefetch,
        process_index=process_index,
        process_count=process_count,
    )


def _check_length(dataset: Dataset, length: int) -> None:
    if dataset.max_length > length:
        raise UserError(
            f"{dataset.directory} holds sequences of up to {dataset.max_length} slots, but "
            f"config.data.max_length = {length}; raise it or prepare with --max_length={length}"
        )


def validation_order(dataset: Dataset) -> Int[np.ndarray, "n"]:
    """Returns the held-out sequences' numbers among all stored ones, in the order they are met.

    Mixed datasets take turns in proportion to their sizes.
    """
    return spread([share.num_sequences[VALIDATION] for share in dataset.sets])


def validation_batches(
    dataset: Dataset,
    *,
    length: int,
    batch_size: int,
    arrange: Arrange,
    choose: Choose | None = None,
    close: Close | None = None,
    limit: int | None = None,
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yields (batch, real rows [b]) over the validation split, each row once, in its order.

    The last batch is filled up with copies of its first row, which are marked as not real.

    Args:
      dataset: From open_data().
      length: Slots of a row.
      batch_size: Rows of a batch.
      arrange: From arrange_for().
      choose: From choose_for(); which part of a sequence is to be generated.
      close: From close_for(); which gaps nothing is inserted into.
      limit: Stop after that many rows.
    """
    _check_length(dataset, length)
    reader = RecordReader(dataset.shards[VALIDATION])
    order = validation_order(dataset)
    total = min(len(order), limit or len(order))
    for start in range(0, total, batch_size):
        numbers = np.arange(start, start + batch_size)
        real = numbers < total
        sequences = reader.read(order[np.where(real, numbers, start)].tolist())
        if choose:
            sequences = map(choose, sequences, numbers.tolist())
        fields = clean_rows(sequences, arrange, length, dataset.vocabulary, close)
        yield Batch(index=numbers.astype(np.int32), **fields), real
