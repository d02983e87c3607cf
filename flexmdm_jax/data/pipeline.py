"""From records to batches: Grain datasets of padded rows, in an order the seed alone decides."""

from collections.abc import Callable, Iterator

import grain
import numpy as np

from flexmdm_jax.data.records import TRAIN, VALIDATION, Dataset, Sequence, decode_record
from flexmdm_jax.errors import UserError
from flexmdm_jax.schedules import Schedule
from flexmdm_jax.types import Batch, Vocabulary

Row = dict[str, np.ndarray]
Arrange = Callable[[Sequence, int, Vocabulary], Row]


def padded_row(sequence: Sequence, length: int, vocabulary: Vocabulary) -> Row:
    """Returns FlexMDM's form of a sequence: END is fixed, and padding is no part of it.

    Args:
      sequence: Of at most `length` tokens.
      length: Slots of the row.
      vocabulary: Ids of MASK and END.
    """
    count = len(sequence.tokens)
    row = filled_row(sequence, length, vocabulary)
    row["segment_ids"][count:] = 0
    row["fixed"][count - 1] = True
    return row


def filled_row(sequence: Sequence, length: int, vocabulary: Vocabulary) -> Row:
    """Returns MDM's form of a sequence: END fills the row and is predicted like any token."""
    count = len(sequence.tokens)
    tokens, fixed = np.full(length, vocabulary.end, np.int32), np.zeros(length, bool)
    tokens[:count], fixed[:count] = sequence.tokens, sequence.fixed
    return {"tokens": tokens, "segment_ids": np.ones(length, np.int32), "fixed": fixed}


def arrange_for(insertion: Schedule) -> Arrange:
    """Returns the layout of rows that goes with an insertion schedule."""
    return padded_row if insertion.inserts else filled_row


def _rows(dataset: Dataset, split: str, length: int, arrange: Arrange) -> grain.MapDataset:
    if dataset.max_length > length:
        raise UserError(
            f"{dataset.directory} holds sequences of up to {dataset.max_length} slots, but "
            f"config.data.max_length = {length}; raise it or prepare with --max_length={length}"
        )
    source = grain.sources.ArrayRecordDataSource([dataset.path(split)])
    vocabulary = dataset.vocabulary
    rows = grain.MapDataset.source(source)
    return rows.map(lambda record: arrange(decode_record(record), length, vocabulary))


def train_batches(
    dataset: Dataset,
    *,
    length: int,
    batch_size: int,
    seed: int,
    arrange: Arrange,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.IterDataset:
    """Returns an endless dataset of training batches (dicts with the fields of Batch).

    Examples are shuffled anew every epoch. The order is global: batch number s holds examples
    s · batch_size onwards whatever the number of processes, of which each reads its share.

    Args:
      dataset: From open_dataset.
      length: Slots of a row.
      batch_size: Rows of a batch over all processes.
      seed: Decides the order.
      arrange: padded_row (FlexMDM) or filled_row (MDM).
      process_index: This process.
      process_count: How many processes there are; must divide batch_size.

    Raises:
      UserError: If the dataset's sequences do not fit the rows.
    """
    rows = _rows(dataset, TRAIN, length, arrange).seed(seed).shuffle().repeat()
    rows = rows.map_with_index(lambda index, row: row | {"index": np.int32(index % 2**31)})
    rows = rows[process_index::process_count]
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=64)
    return rows.to_iter_dataset(options).batch(batch_size // process_count, drop_remainder=True)


def validation_batches(
    dataset: Dataset, *, length: int, batch_size: int, arrange: Arrange, limit: int | None = None
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yields (batch, real rows [b]) over the validation split in stored order, each row once.

    The last batch is filled up with copies of its first row, which are marked as not real.

    Args:
      dataset: From open_dataset.
      length: Slots of a row.
      batch_size: Rows of a batch.
      arrange: padded_row (FlexMDM) or filled_row (MDM).
      limit: Stop after that many rows.
    """
    rows = _rows(dataset, VALIDATION, length, arrange)
    total = min(len(rows), limit or len(rows))
    for start in range(0, total, batch_size):
        numbers = np.arange(start, start + batch_size)
        real = numbers < total
        picked = [rows[int(number)] for number in np.where(real, numbers, start)]
        fields = {name: np.stack([row[name] for row in picked]) for name in picked[0]}
        yield Batch(index=numbers.astype(np.int32), **fields), real
