"""Which record each example of training is: an order that the seed and the data alone decide.

Examples are numbered 0, 1, 2, … without end. Which record example g is, is a pure function of the
seed: any process can compute any part of the order, so it depends neither on how many processes
share it nor on where a run was interrupted.
"""

import pathlib

import grain
import numpy as np

from flexmdm_jax.data.storage.records import METADATA, TRAIN, Dataset
from flexmdm_jax.data.storage.shards import RecordReader, lengths_path
from flexmdm_jax.errors import UserError

# Every so many examples hold each set of a mixture equally often.
_BLOCK = 10_000
# Within so many of them, sets come in a random order. Left evenly spread they would go round as
# times do, and a set might see the same part of [0, 1) for a thousand examples.
_WINDOW = 50


class Order:
    """The record that each example is.

    A dataset is shuffled anew every time it has been gone through. Of a mixture, every 10,000
    consecutive examples hold each set in proportion to its weight, and so do all shorter stretches,
    nearly.
    """

    def __init__(self, dataset: Dataset, seed: int):
        """Lays out the training split of a dataset.

        Args:
          dataset: From open_data().
          seed: Decides the order.
        """
        sizes = [share.num_sequences[TRAIN] for share in dataset.sets]
        self._shares = _rounded(np.array([share.weight for share in dataset.sets]), _BLOCK)
        ends = np.cumsum(self._shares)
        sets = np.searchsorted(ends, spread(self._shares.tolist()), side="right")
        sets = np.random.default_rng(seed).permuted(sets.reshape(-1, _WINDOW), axis=1).ravel()
        # Of each place in a block: which set its example is of, and the how-manieth of it.
        self._set, self._rank = sets, np.empty_like(sets)
        for which, share in enumerate(self._shares.tolist()):
            self._rank[sets == which] = np.arange(share)
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


class LengthTable:
    """The slots of every training record; files are read once, then mapped into memory."""

    def __init__(self, dataset: Dataset):
        """Finds the files of a dataset.

        Raises:
          UserError: If they do not hold the lengths that dataset.json counts.
        """
        _check_lengths(dataset)
        self._files = [lengths_path(shard) for shard in dataset.shards[TRAIN]]
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
        slots = np.fromfile(lengths_path(shard), "<u4")
        # Lengths that cannot be are kept apart: a damaged one may be billions.
        found += np.bincount(slots[slots < len(found)], minlength=len(found))
    counted = {n - 1: int(found[n]) for n in np.flatnonzero(found).tolist()}
    if counted != dataset.lengths[TRAIN]:
        raise UserError(f"{_guilty(dataset)}; prepare the dataset again")


def _guilty(dataset: Dataset) -> str:
    """Returns which file's lengths are wrong; to know that takes reading the shards."""
    for shard in dataset.shards[TRAIN]:
        lengths = lengths_path(shard)
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
