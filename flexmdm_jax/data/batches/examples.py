"""What an example of training looks like at its time: the host's side of the interpolant."""

import dataclasses

import numpy as np

from flexmdm_jax.data.batches.noise import Noise
from flexmdm_jax.data.batches.order import LengthTable
from flexmdm_jax.data.batches.rows import Row, arrange_for
from flexmdm_jax.data.storage.records import TRAIN, Dataset, Sequence
from flexmdm_jax.data.storage.shards import RecordReader
from flexmdm_jax.data.tasks.infilling import choose_for
from flexmdm_jax.interpolant import events
from flexmdm_jax.process import Process


@dataclasses.dataclass(frozen=True)
class Partial:
    """Partial sequences x_t, one after another.

    Attributes:
      sizes: Slots of each [n].
      tokens: Clean tokens, MASK and END, in all their slots [sum of sizes].
      targets: The token of x₁ behind each slot.
      gaps: Tokens of x₁ missing immediately before each slot.
      t: Time of each [n].
      weight: What a term at that time counts [n].
    """

    sizes: np.ndarray
    tokens: np.ndarray
    targets: np.ndarray
    gaps: np.ndarray
    t: np.ndarray
    weight: np.ndarray


class Examples:
    """The examples of a run, by record and by number (see noise.py).

    Attributes:
      where: The folder of the dataset.
    """

    def __init__(
        self,
        dataset: Dataset,
        process: Process,
        *,
        length: int,
        seed: int,
        time_warp: float = 1.0,
        lengths: LengthTable | None = None,
    ):
        """Opens the training split.

        Args:
          dataset: From open_data().
          process: FlexMDM's or MDM's.
          length: Slots of the longest sequence; MDM's all have as many.
          seed: Decides times, noise, and what a task chooses anew for every example.
          time_warp: See stratified_times().
          lengths: Of the records, if they alone say how long x_t is; see lengths_tell().
        """
        self.where = dataset.directory
        self._reader = RecordReader(dataset.shards[TRAIN])
        self._process, self._length = process, length
        self._arrange = arrange_for(process, dataset.task)
        self._choose = choose_for(dataset.task, process, seed)
        self._noise = Noise(seed, time_warp)
        self._lengths = lengths

    def sequences(self, records: np.ndarray, numbers: np.ndarray) -> list[Sequence]:
        """Returns clean sequences as the process takes them; see arrange_for()."""
        found = self._reader.read(records.tolist())
        if self._choose:
            found = map(self._choose, found, numbers.tolist())
        return [self._arrange(x, self._length, self._process.vocabulary) for x in found]

    def sizes(self, records: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Returns the slots of each x_t [n], without reading a token where lengths tell."""
        if self._lengths is None:
            return self.at_their_times(records, numbers).sizes
        lengths = self._lengths.of(records)
        fixed = np.zeros(lengths.sum(), bool)
        fixed[np.cumsum(lengths) - 1] = True
        present, _ = self._events(numbers, lengths, fixed, self._noise.times(numbers)[0])
        return _sums(present, lengths)

    def at_their_times(self, records: np.ndarray, numbers: np.ndarray) -> Partial:
        """Returns x_t of each example at its own time."""
        sequences = self.sequences(records, numbers)
        lengths = np.array([len(x.tokens) for x in sequences])
        tokens = np.concatenate([x.tokens for x in sequences])
        fixed = np.concatenate([x.fixed for x in sequences])
        t, weight = self._noise.times(numbers)
        present, masked = self._events(numbers, lengths, fixed, t)
        targets = tokens[present]
        # END, always there, takes up what is missing before it: counts start anew behind it.
        missing = np.cumsum(~present)[present]
        return Partial(
            sizes=_sums(present, lengths),
            tokens=np.where(masked[present], self._process.vocabulary.mask, targets),
            targets=targets,
            gaps=np.diff(missing, prepend=0),
            t=t,
            weight=weight,
        )

    def _events(self, numbers, lengths, fixed, t):
        levels = self._noise.levels(numbers, lengths)
        # Schedules may pass through the logarithm of 0 at a level of 0.
        with np.errstate(divide="ignore"):
            return events(levels, fixed, np.repeat(t.astype(np.float64), lengths), self._process)


def lengths_tell(dataset: Dataset, process: Process) -> bool:
    """Returns whether the lengths of sequences say which of their tokens may be absent.

    That is so if none is fixed but END.
    """
    chosen = choose_for(dataset.task, process, seed=0) is not None
    return process.inserts and not chosen and dataset.num_given == 0


def _sums(flags: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns how many flags are set in each of consecutive stretches of the given lengths."""
    return np.add.reduceat(flags, np.cumsum(lengths) - lengths, dtype=np.int64)


def lay_out(
    x: Partial, index: np.ndarray, rows: np.ndarray, shape: tuple[int, int, int], end: int
) -> Row:
    """Returns partial sequences in rows, as the fields of a Corrupted batch.

    Args:
      x: The sequences.
      index: Number of each [n].
      rows: Row of each [n]; those of a row stand in it one after another.
      shape: Rows, slots of a row, most sequences of a row.
      end: Stands at padding.
    """
    num_rows, length, segments = shape
    column, start = _places(rows, x.sizes, num_rows)
    within = np.arange(x.sizes.sum()) - np.repeat(np.cumsum(x.sizes) - x.sizes, x.sizes)
    slot = np.repeat(rows * length + start, x.sizes) + within

    def of_slots(values, filling, dtype):
        field = np.full(num_rows * length, filling, dtype)
        field[slot] = values
        return field.reshape(num_rows, length)

    def of_segments(values, dtype):
        field = np.zeros((num_rows, segments), dtype)
        field[rows, column] = values
        return field

    return {
        "tokens": of_slots(x.tokens, end, np.int32),
        "segment_ids": of_slots(np.repeat(column + 1, x.sizes), 0, np.int32),
        "targets": of_slots(x.targets, end, np.int32),
        "gaps": of_slots(x.gaps, 0, np.float32),
        "t": of_segments(x.t, np.float32),
        "weight": of_segments(x.weight, np.float32),
        "index": of_segments(index % 2**31, np.int32),
    }


def _places(rows: np.ndarray, sizes: np.ndarray, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns which of its row's sequences each is, from 0, and the slot it begins at."""
    order = np.argsort(rows, kind="stable")
    before = np.cumsum(sizes[order]) - sizes[order]
    counts = np.bincount(rows, minlength=num_rows)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    column, start = np.empty_like(rows), np.empty_like(rows)
    column[order] = np.arange(len(rows)) - first
    start[order] = before - before[first] if len(rows) else before
    return column, start
