"""Several sequences to a row: which of the next ones a step takes, and where each goes."""

import bisect
import dataclasses
import heapq

import numpy as np

from flexmdm_jax.config import Config


@dataclasses.dataclass(frozen=True)
class Bins:
    """The rows of a step.

    Attributes:
      rows: Their number.
      length: Slots of a row.
      segments: Sequences that a row may hold.
    """

    rows: int
    length: int
    segments: int

    @classmethod
    def of(cls, config: Config) -> "Bins":
        """Returns the rows of a training step that a config asks for, packed or not."""
        return cls(config.training.batch_size, config.data.slots, config.data.segments)


def pack_prefix(sizes: np.ndarray, bins: Bins) -> np.ndarray:
    """Returns the row [n] of each of the first n sequences, n as large as packs into the bins.

    It begins with as many as fit by the sum of their slots, and as long as some find no room,
    leaves out from the end about as many slots as these need. Nothing is ever cut, and no later
    sequence is taken in place of an earlier one.

    Args:
      sizes: Slots of the next sequences, each at most bins.length; more of them than can fit, or
        as many as the rows may hold.
      bins: The rows.
    """
    ends = np.cumsum(sizes)
    room = bins.rows * bins.length
    count = min(int(np.searchsorted(ends, room, side="right")), bins.rows * bins.segments)
    while count > 1:
        homeless = room
        for pack in (_emptiest_first, _fullest_first):
            rows = pack(sizes[:count], bins)
            without = int(sizes[:count][rows < 0].sum())
            if not without:
                return rows
            homeless = min(homeless, without)
        count = min(count - 1, int(np.searchsorted(ends, ends[count - 1] - homeless, "right")))
    return np.zeros(1, np.int64)


def _emptiest_first(sizes: np.ndarray, bins: Bins) -> np.ndarray:
    """Returns each sequence's row, -1 where there is no room: the longest first, where most is.

    Rows end up alike in slots, in sequences and in pairs of slots (longest processing time first,
    Graham 1969), which is what devices that wait for each other want, and many short sequences fill
    up what is left.
    """
    rows = np.full(len(sizes), -1, np.int64)
    free = [(-bins.length, row, bins.segments) for row in range(bins.rows)]
    for number in np.argsort(-sizes, kind="stable").tolist():
        if not free:
            break
        size = int(sizes[number])
        room, row, places = free[0]
        if size > -room:
            continue
        rows[number] = row
        if places > 1:
            heapq.heapreplace(free, (room + size, row, places - 1))
        else:
            heapq.heappop(free)
    return rows


def _fullest_first(sizes: np.ndarray, bins: Bins) -> np.ndarray:
    """Returns the same, each sequence where it leaves least (best fit decreasing).

    It wastes less where rows hold few sequences. Many short ones it would heap up in the last row.
    """
    rows = np.full(len(sizes), -1, np.int64)
    free = [(bins.length, row, bins.segments) for row in range(bins.rows)]
    for number in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[number])
        at = bisect.bisect_left(free, (size,))
        if at == len(free):
            continue
        room, row, places = free.pop(at)
        rows[number] = row
        if places > 1:
            bisect.insort(free, (room - size, row, places - 1))
    return rows
