"""Which example is where in training: a global order that the seed and the data alone decide.

Examples are numbered 0, 1, 2, … without end. Which record example g is, and which examples batch k
holds, are pure functions of the seed: any process can compute any part of the order, so it depends
neither on how many processes share it nor on where a run was interrupted.

A row's place in its batch decides the part of [0, 1) its time is drawn from. So what a row holds
must not depend on its place: rows left sorted by length, or the one row that a rare set has in
every batch left where it is, would be trained at times of their own.
"""

import pathlib

import grain
import numpy as np

from flexmdm_jax.data.storage.records import METADATA, TRAIN, Dataset
from flexmdm_jax.data.storage.shards import RecordReader, lengths_name
from flexmdm_jax.errors import UserError

# Every so many examples hold each set of a mixture equally often.
_BLOCK = 10_000


class Order:
    """The record that each example is.

    A dataset is shuffled anew every time it has been gone through. Of a mixture, every 10,000
    consecutive examples hold each set in proportion to its weight, evenly spread.
    """

    def __init__(self, dataset: Dataset, seed: int):
        """Lays out the training split of a dataset.

        Args:
          dataset: From open_data().
          seed: Decides the order.
        """
        sizes = [share.num_sequences[TRAIN] for share in dataset.sets]
        self._shares = _rounded(np.array([share.weight for share in dataset.sets]), _BLOCK)
        pattern = spread(self._shares.tolist())
        ends = np.cumsum(self._shares)
        self.is_mixture = len(sizes) > 1
        # Of each place in a block: which set its example is of, and the how-manieth of it.
        self._set = np.searchsorted(ends, pattern, side="right")
        self._rank = pattern - (ends - self._shares)[self._set]
        self._firsts = np.cumsum([0, *sizes[:-1]])
        self._shuffled = [grain.MapDataset.range(n).seed(seed).shuffle().repeat() for n in sizes]

    def records(self, examples: np.ndarray) -> np.ndarray:
        """Returns the record number [n] of each example [n]."""
        block, place = np.divmod(examples, _BLOCK)
        sets = self._set[place]
        numbers = block * self._shares[sets] + self._rank[place]
        found = [
            self._shuffled[which][number]
            for which, number in zip(sets.tolist(), numbers.tolist(), strict=True)
        ]
        return self._firsts[sets] + np.array(found)


def spread(sizes: list[int]) -> np.ndarray:
    """Returns the numbers 0..sum(sizes) so ordered that the sets they are made of lie evenly.

    Set i's j-th number comes after the share (j + ½) / sizes[i]; each set keeps its own order.
    """
    places = np.concatenate([(np.arange(size) + 0.5) / size for size in sizes if size])
    return np.argsort(places, kind="stable")


def _rounded(weights: np.ndarray, total: int) -> np.ndarray:
    """Returns whole numbers in proportion to weights that sum to total (largest remainders)."""
    exact = weights / weights.sum() * total
    whole = np.floor(exact).astype(int)
    missing = np.argsort(whole - exact, kind="stable")[: total - whole.sum()]
    whole[missing] += 1
    return whole


class InOrder:
    """Batch k holds the examples k · batch_size onwards, in rows of one length.

    The examples of a mixture are evenly spread over them, so their rows are shuffled.
    """

    def __init__(self, order: Order, *, batch_size: int, length: int, seed: int):
        """Lays out batches of batch_size rows over all processes, of length slots."""
        self._order, self._size, self._length, self._seed = order, batch_size, length, seed

    def rows(self, number: int, share: slice) -> tuple[np.ndarray, int]:
        """Returns (records of a share of a batch's rows, slots of its rows)."""
        examples = number * self._size + np.arange(self._size)
        if self._order.is_mixture:
            examples = np.random.default_rng((self._seed, number)).permutation(examples)
        return self._order.records(examples[share]), self._length


class LengthTable:
    """The slots of every training record; files are read once, then mapped into memory."""

    def __init__(self, dataset: Dataset):
        """Finds the files of a dataset.

        Raises:
          UserError: If they do not hold the lengths that dataset.json counts.
        """
        _check_lengths(dataset)
        self._files = [path.with_name(lengths_name(path.name)) for path in dataset.shards[TRAIN]]
        sizes = [path.stat().st_size // 4 for path in self._files]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])

    def of(self, records: np.ndarray) -> np.ndarray:
        """Returns the slots of records, END included."""
        found = np.zeros(len(records), np.int64)
        shards = np.searchsorted(self._starts, records, side="right") - 1
        for shard in np.unique(shards):
            mine = shards == shard
            found[mine] = _mapped(self._files[shard])[records[mine] - self._starts[shard]]
        return found


def _check_lengths(dataset: Dataset) -> None:
    """Raises UserError unless the training split's files hold the lengths of dataset.json."""
    found = np.zeros(dataset.max_length + 1, np.int64)
    for shard in dataset.shards[TRAIN]:
        slots = np.fromfile(shard.with_name(lengths_name(shard.name)), "<u4")
        # Lengths that cannot be are kept apart: a damaged one may be billions.
        found += np.bincount(slots[slots < len(found)], minlength=len(found))
    counted = {n - 1: int(found[n]) for n in np.flatnonzero(found).tolist()}
    if counted != dataset.lengths[TRAIN]:
        raise UserError(f"{_guilty(dataset)}; prepare the dataset again")


def _guilty(dataset: Dataset) -> str:
    """Returns which file's lengths are wrong; to know that takes reading the shards."""
    for shard in dataset.shards[TRAIN]:
        lengths = shard.with_name(lengths_name(shard.name))
        records = RecordReader([shard])
        slots = np.fromfile(lengths, "<u4").tolist()
        if len(records) != len(slots):
            return f"{lengths} has {len(slots)} lengths, its shard {len(records)} sequences"
        for number, stored in enumerate(slots):
            [sequence] = records.read([number])
            if len(sequence.tokens) != stored:
                return f"{lengths} is damaged: sequence {number} has not {stored} slots"
    return f"{dataset.directory}: the lengths in {METADATA} are not those of the train split"


def _mapped(path: pathlib.Path) -> np.ndarray:
    return np.memmap(path, "<u4", mode="r")


class ByLength:
    """Rows of a batch have about the same length, and only as many slots as that takes.

    The order is cut into windows of many batches. In a window, examples are sorted by the shortest
    bucket that they fit into and cut into batches; the batches are then shuffled, and so are the
    rows of each. So nothing is lost or repeated, and a window depends on nothing else.
    """

    WINDOW = 16  # batches

    def __init__(
        self,
        order: Order,
        lengths: LengthTable,
        *,
        batch_size: int,
        buckets: tuple[int, ...],
        seed: int,
    ):
        """Lays out batches of batch_size rows; buckets are lengths that rows may have."""
        self._order, self._lengths, self._seed = order, lengths, seed
        self._size, self._buckets = batch_size, np.array(sorted(buckets))
        self._last: tuple[int, list[tuple[np.ndarray, int]]] = (-1, [])

    def rows(self, number: int, share: slice) -> tuple[np.ndarray, int]:
        """Returns (records of a share of a batch's rows, slots of its rows)."""
        window, place = divmod(number, self.WINDOW)
        kept, batches = self._last
        if kept != window:
            batches = self._window(window)
            # One assignment, so that threads see a number and its own batches.
            self._last = (window, batches)
        records, length = batches[place]
        return records[share], length

    def _window(self, number: int) -> list[tuple[np.ndarray, int]]:
        count = self.WINDOW * self._size
        records = self._order.records(number * count + np.arange(count))
        buckets = np.searchsorted(self._buckets, self._lengths.of(records))
        sort = np.argsort(buckets, kind="stable").reshape(self.WINDOW, self._size)
        rng = np.random.default_rng((self._seed, number))
        batches = rng.permuted(sort[rng.permutation(self.WINDOW)], axis=1)
        return [(records[rows], int(self._buckets[buckets[rows].max()])) for rows in batches]
