"""From records to batches of rows, in an order that the seed alone decides (see order.py)."""

import sys
from collections.abc import Callable, Iterator

import grain
import numpy as np

from flexmdm_jax.data.batches.order import ByLength, InOrder, LengthTable, Order, spread
from flexmdm_jax.data.batches.rows import Arrange, Row, padded_row, stack_rows
from flexmdm_jax.data.storage.records import TRAIN, VALIDATION, Dataset, Sequence
from flexmdm_jax.data.storage.shards import RecordReader
from flexmdm_jax.errors import UserError
from flexmdm_jax.types import Batch

Choose = Callable[[Sequence, int], Sequence]


class TrainBatches(Iterator[Row]):
    """An endless iterator of training batches (dicts with the fields of Batch).

    Its state is the number of batches taken, which says the same on any number of processes.
    """

    def __init__(self, batches: grain.MapDataset, *, workers: int, prefetch: int):
        """Starts at batch 0; see train_batches()."""
        self._batches, self._workers, self._prefetch = batches, workers, prefetch
        self._taken = 0
        self._stream: Iterator[Row] | None = None

    def __next__(self) -> Row:
        if self._stream is None:
            self._stream = iter(self._from(self._taken))
        batch = next(self._stream)
        self._taken += 1
        return batch

    def _from(self, start: int) -> grain.IterDataset:
        batches = self._batches[start:]
        if self._workers:
            options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=self._prefetch)
            return batches.to_iter_dataset(options).mp_prefetch(
                grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=self._prefetch)
            )
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=self._prefetch)
        return batches.to_iter_dataset(options)

    def get_state(self) -> dict[str, int]:
        """Returns the position, for set_state()."""
        return {"batches": self._taken}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to a position that get_state() returned, here or in another process."""
        self._taken = state["batches"]
        self._stream = None


class _Share:
    """One process's rows of every global batch, by the batch's number."""

    def __init__(
        self,
        dataset: Dataset,
        layout: InOrder | ByLength,
        arrange: Arrange,
        choose: Choose | None,
        batch_size: int,
        share: slice,
    ):
        self._reader = RecordReader(dataset.shards[TRAIN])
        self._vocabulary = dataset.vocabulary
        self._layout, self._arrange, self._choose = layout, arrange, choose
        self._size, self._share = batch_size, share

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, number: int) -> Row:
        records, length = self._layout.rows(int(number), self._share)
        sequences = self._reader.read(records.tolist())
        # Rows are numbered as they are trained on, whatever buckets have done to the order.
        index = (int(number) * self._size + np.arange(self._size))[self._share]
        if self._choose:
            sequences = map(self._choose, sequences, index.tolist())
        batch = stack_rows(self._arrange(x, length, self._vocabulary) for x in sequences)
        return batch | {"index": (index % 2**31).astype(np.int32)}


def train_batches(
    dataset: Dataset,
    *,
    length: int,
    batch_size: int,
    seed: int,
    arrange: Arrange,
    choose: Choose | None = None,
    buckets: tuple[int, ...] = (),
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    prefetch: int = 4,
) -> TrainBatches:
    """Returns an endless iterator of training batches.

    Examples are shuffled anew every epoch. The order is global: batch number s holds the same
    examples whatever the number of processes, of which each reads its share.

    Args:
      dataset: From open_data().
      length: Slots of the longest row.
      batch_size: Rows of a batch over all processes.
      seed: Decides the order.
      arrange: padded_row (FlexMDM) or filled_row (MDM).
      choose: (sequence, number of its row) -> sequence, of which it may fix another part.
      buckets: Shorter lengths that a batch's rows may have; none pads all to `length`.
      process_index: This process.
      process_count: How many processes there are; must divide batch_size.
      workers: Processes that read ahead; 0 reads ahead in a thread.
      prefetch: Batches to read ahead, of each worker.

    Raises:
      UserError: If the dataset's sequences do not fit the rows, or buckets do not fit the method.
    """
    _check_length(dataset, length)
    order = Order(dataset, seed)
    layout = InOrder(order, batch_size=batch_size, length=length, seed=seed)
    if buckets:
        if arrange is not padded_row:
            raise UserError("config.data.buckets: MDM fills every row with END; leave them out")
        layout = ByLength(
            order,
            LengthTable(dataset),
            batch_size=batch_size,
            buckets=(*buckets, length),
            seed=seed,
        )
    share = slice(process_index, None, process_count)
    batches = grain.MapDataset.source(_Share(dataset, layout, arrange, choose, batch_size, share))
    return TrainBatches(batches, workers=workers, prefetch=prefetch)


def _check_length(dataset: Dataset, length: int) -> None:
    if dataset.max_length > length:
        raise UserError(
            f"{dataset.directory} holds sequences of up to {dataset.max_length} slots, but "
            f"config.data.max_length = {length}; raise it or prepare with --max_length={length}"
        )


def validation_batches(
    dataset: Dataset,
    *,
    length: int,
    batch_size: int,
    arrange: Arrange,
    choose: Choose | None = None,
    limit: int | None = None,
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yields (batch, real rows [b]) over the validation split in stored order, each row once.

    Mixed datasets take turns in proportion to their sizes.

    The last batch is filled up with copies of its first row, which are marked as not real.

    Args:
      dataset: From open_data().
      length: Slots of a row.
      batch_size: Rows of a batch.
      arrange: padded_row (FlexMDM) or filled_row (MDM).
      choose: As in train_batches().
      limit: Stop after that many rows.
    """
    _check_length(dataset, length)
    reader = RecordReader(dataset.shards[VALIDATION])
    order = spread([share.num_sequences[VALIDATION] for share in dataset.sets])
    total = min(len(order), limit or len(order))
    for start in range(0, total, batch_size):
        numbers = np.arange(start, start + batch_size)
        real = numbers < total
        sequences = reader.read(order[np.where(real, numbers, start)].tolist())
        if choose:
            sequences = map(choose, sequences, numbers.tolist())
        fields = stack_rows(arrange(x, length, dataset.vocabulary) for x in sequences)
        yield Batch(index=numbers.astype(np.int32), **fields), real
