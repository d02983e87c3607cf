"""Which examples a step takes, and in what rows: padded, by length, or packed.

A step's plan follows from the seed and from the number of examples taken before it, so any process
can make any of them, and a run goes on from that number alone.
"""

import copy
import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np

from flexmdm_jax.data.batches.examples import Examples
from flexmdm_jax.data.batches.order import LengthTable, Order
from flexmdm_jax.data.batches.packing import Bins, pack_prefix


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a step works on.

    Attributes:
      numbers: Of its examples [n] among all that are trained on, consecutive.
      records: Their records [n].
      rows: The row that each lies in [n].
      bins: The step's rows.
    """

    numbers: np.ndarray
    records: np.ndarray
    rows: np.ndarray
    bins: Bins

    @property
    def stop(self) -> int:
        """Returns how many examples have been taken after the step."""
        return int(self.numbers[-1]) + 1


@runtime_checkable
class Layout(Protocol):
    """How examples are laid out."""

    def plan(self, taken: int, steps: int) -> Plan:
        """Returns the plan of the step that is `steps` steps after `taken` examples were taken."""
        ...

    def expected(self) -> float:
        """Returns how many examples a step takes on average."""
        ...


class InOrder:
    """One example to a row, all rows of one length."""

    def __init__(self, order: Order, *, batch_size: int, length: int):
        """Lays out steps of batch_size rows over all processes, of length slots."""
        self._order, self._bins = order, Bins(batch_size, length, segments=1)

    def plan(self, taken: int, steps: int) -> Plan:
        """See Layout."""
        rows = np.arange(self._bins.rows)
        numbers = taken + steps * len(rows) + rows
        return Plan(numbers, self._order.records(numbers), rows, self._bins)

    def expected(self) -> float:
        """See Layout."""
        return float(self._bins.rows)


class ByLength:
    """One example to a row; rows of a step have about the same length, and no more slots than that.

    The order is cut into windows of many steps. In a window, examples are sorted by the shortest
    bucket that they fit into and cut into steps; the steps are then shuffled, and so are the rows
    of each. So nothing is lost or repeated, and a window depends on nothing else. Examples are
    numbered as they are trained on: an example's number decides its time, and lengths left sorted
    would be trained at times of their own.
    """

    WINDOW = 16  # steps

    def __init__(
        self,
        order: Order,
        lengths: LengthTable,
        *,
        batch_size: int,
        buckets: tuple[int, ...],
        seed: int,
    ):
        """Lays out steps of batch_size rows; buckets are lengths that rows may have."""
        self._order, self._lengths, self._seed = order, lengths, seed
        self._size, self._buckets = batch_size, np.array(sorted(buckets))
        self._last: tuple[int, list[tuple[np.ndarray, int]]] = (-1, [])

    def plan(self, taken: int, steps: int) -> Plan:
        """See Layout."""
        number = taken // self._size + steps
        window, place = divmod(number, self.WINDOW)
        kept, planned = self._last
        if kept != window:
            planned = self._window(window)
            # One assignment, so that threads see a number and its own steps.
            self._last = (window, planned)
        records, length = planned[place]
        rows = np.arange(self._size)
        return Plan(number * self._size + rows, records, rows, Bins(self._size, length, 1))

    def _window(self, number: int) -> list[tuple[np.ndarray, int]]:
        count = self.WINDOW * self._size
        records = self._order.records(number * count + np.arange(count))
        buckets = np.searchsorted(self._buckets, self._lengths.of(records))
        sort = np.argsort(buckets, kind="stable").reshape(self.WINDOW, self._size)
        rng = np.random.default_rng((self._seed, number))
        steps = rng.permuted(sort[rng.permutation(self.WINDOW)], axis=1)
        return [(records[rows], int(self._buckets[buckets[rows].max()])) for rows in steps]

    def expected(self) -> float:
        """See Layout."""
        return float(self._size)


class Packed:
    """As many examples as the rows hold, several to a row; see pack_prefix().

    How long each x_t is follows from the example's number, so a step is full to a few slots, and
    how many examples it takes varies a little.
    """

    _AT_A_TIME = 256  # examples looked at
    # Steps that say how many examples one takes, or as many as take so many examples.
    _TRIED_STEPS, _TRIED = 32, 10_000

    def __init__(self, order: Order, examples: Examples, bins: Bins):
        """Lays out steps of the given rows over all processes."""
        self._order, self._examples, self._bins = order, examples, bins
        self._go_to(0)

    def __copy__(self) -> "Packed":
        """Returns one that plans on its own: threads must not share what is planned so far."""
        return Packed(self._order, self._examples, self._bins)

    def _go_to(self, taken: int) -> None:
        self._start, self._planned, self._taken = taken, -1, taken
        self._records, self._sizes = np.empty(0, np.int64), np.empty(0, np.int64)

    def plan(self, taken: int, steps: int) -> Plan:
        """See Layout. Steps after one another are planned fastest in their order."""
        if taken != self._start or steps <= self._planned:
            self._go_to(taken)
        while self._planned < steps:
            plan = self._next()
        return plan

    def _next(self) -> Plan:
        bins = self._bins
        while len(self._sizes) < bins.rows * bins.segments:
            if self._sizes.sum() > bins.rows * bins.length:
                break
            self._look_ahead()
        rows = pack_prefix(self._sizes, bins)
        count = len(rows)
        numbers, records = self._taken + np.arange(count), self._records[:count]
        self._records, self._sizes = self._records[count:], self._sizes[count:]
        self._planned, self._taken = self._planned + 1, self._taken + count
        return Plan(numbers, records, rows, bins)

    def _look_ahead(self) -> None:
        numbers = self._taken + len(self._sizes) + np.arange(self._AT_A_TIME)
        records = self._order.records(numbers)
        self._records = np.concatenate([self._records, records])
        sizes = self._examples.sizes(records, numbers)
        self._sizes = np.concatenate([self._sizes, sizes])

    def expected(self) -> float:
        """See Layout. It is the mean of the first steps of a run."""
        start, taken, steps = copy.copy(self), 0, 0
        while steps < self._TRIED_STEPS and taken < self._TRIED:
            taken, steps = start.plan(0, steps).stop, steps + 1
        return taken / steps
