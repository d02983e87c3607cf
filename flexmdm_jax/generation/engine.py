"""The engine: jobs in, finished rows out, many at a time, each as if it were alone."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int

from flexmdm_jax.generation.pools import Job, Pool, Row, Ticket, make_program, row_of
from flexmdm_jax.generation.trace.frames import Frame
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import check_canvas
from flexmdm_jax.sharding import num_batch_shards
from flexmdm_jax.types import Denoiser

# Dispatches that a pool may be passed over while fuller ones have their turn.
_PATIENCE = 8
# Pools without rows that are kept, with their programs, for rows that may come.
_KEPT = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Completions:
    """What was grown, row by row.

    Attributes:
      tokens: Token ids of each row, given ones among them, without END.
      truncated: Whether the buffer was too small for it.
      cut_short: Whether calls ran out.
      calls: Calls of the network that each row took.
    """

    tokens: list[Int[np.ndarray, "_"]]
    truncated: Bool[np.ndarray, "n"]
    cut_short: Bool[np.ndarray, "n"]
    calls: Int[np.ndarray, "n"]

    @classmethod
    def of(cls, rows: list[Row]) -> "Completions":
        """Returns those of finished rows."""
        every = lambda name: np.array([getattr(row, name) for row in rows])  # noqa: E731
        return cls(
            [row.tokens for row in rows], every("truncated"), every("cut_short"), every("calls")
        )

    @property
    def lengths(self) -> Int[np.ndarray, "n"]:
        """Returns the tokens of each row, END not counted."""
        return np.array([len(tokens) for tokens in self.tokens])

    def figures(self) -> dict[str, float]:
        """Returns the mean calls of a row, and the shares of rows truncated and cut short."""
        rows = {"calls": self.calls, "truncated": self.truncated, "cut_short": self.cut_short}
        return {name: float(np.mean(values)) for name, values in rows.items()}


@dataclasses.dataclass(frozen=True)
class Engine:
    """Grows rows of one model.

    A row starts in the shortest of a few buffers that has room for it and moves on to longer ones
    as it is written. Rows of one buffer and kind of sampler share a program, whose shape is always
    the same: buffers of twice the length hold half as many rows. So a row's result depends on its
    job alone, to the last bit, and the number of programs on the buffers and kinds alone.

    Attributes:
      denoiser: Parameters -> Denoiser.
      process: What the model was trained on.
      mesh: The devices that share the rows of a batch.
      batch_size: Rows of the shortest buffer; rounded up to a multiple of these devices.
      max_length: Slots of the longest buffer, END included.
      calls: Calls of the network between two looks at the rows.
    """

    denoiser: Callable[[Any], Denoiser]
    process: Process
    mesh: Mesh
    batch_size: int
    max_length: int
    calls: int = 16

    def __post_init__(self):
        if min(self.batch_size, self.max_length, self.calls) < 1:
            raise ValueError(
                f"batch_size = {self.batch_size}, max_length = {self.max_length}, calls = "
                f"{self.calls}; all must be at least 1"
            )

    @property
    def lengths(self) -> tuple[int, ...]:
        """Returns the slots of its buffers, ascending; MDM's rows have all of them at once."""
        return buffer_lengths(self.max_length) if self.process.inserts else (self.max_length,)

    def rows(self, length: int) -> int:
        """Returns the rows of a buffer of this length."""
        devices = num_batch_shards(self.mesh)
        wanted = max(1, self.batch_size * self.lengths[0] // length)
        return -(-wanted // devices) * devices

    def run(self, params: Any, jobs: Iterable[Job]) -> Iterator[tuple[int, Frame | Row]]:
        """Yields (number of the job, its finished row) as rows are finished.

        Of watched jobs every frame comes before the row. Jobs are taken as places become free.

        Args:
          params: Parameters.
          jobs: Any number of them.

        Raises:
          ValueError: If a job asks for what cannot be, see Scheduler.add().
        """
        scheduler, jobs = Scheduler(self, params), iter(jobs)
        enough, more = 2 * self.rows(self.lengths[0]), True
        while True:
            while more and scheduler.num_waiting < enough:
                job = next(jobs, None)
                more = job is not None
                if more:
                    scheduler.add(job)
            if not scheduler.busy:
                return
            yield from scheduler.step()

    def complete(self, params: Any, jobs: Iterable[Job]) -> list[Row]:
        """Returns the finished rows of jobs, in their order."""
        found = [(number, row) for number, row in self.run(params, jobs) if isinstance(row, Row)]
        return [row for _, row in sorted(found, key=lambda pair: pair[0])]


class Scheduler:
    """Works jobs off: continuous batches (Yu et al. 2022, Orca) of rows at times of their own.

    It asks no clock, so all processes of a run that are given the same jobs do the same.
    """

    def __init__(self, engine: Engine, params: Any):
        """Returns a scheduler without jobs.

        Args:
          engine: What it works for.
          params: Parameters.
        """
        self._engine, self._params = engine, params
        self._pools: dict[Any, Pool] = {}
        self._tickets: dict[int, tuple[Ticket, Pool]] = {}
        self._added = 0

    @property
    def busy(self) -> bool:
        """Returns whether a job is not finished."""
        return bool(self._tickets)

    @property
    def num_waiting(self) -> int:
        """Returns how many jobs wait for a place."""
        return sum(len(pool.waiting) for pool in self._pools.values())

    @property
    def num_placed(self) -> int:
        """Returns how many jobs have a place."""
        return len(self._tickets) - self.num_waiting

    @property
    def num_places(self) -> int:
        """Returns how many places there are in the pools that have been asked for so far."""
        return sum(pool.rows for pool in self._pools.values())

    @property
    def num_pools(self) -> int:
        """Returns how many pools there are; each is a shape of a program."""
        return len(self._pools)

    def add(self, job: Job) -> int:
        """Returns the number of a job, which waits from now on: 0, 1, 2, …

        Raises:
          ValueError: If the process cannot do what its sampler asks for, or nothing fits.
        """
        engine, number = self._engine, self._added
        end = engine.process.vocabulary.end
        if len(job.start.tokens) > engine.max_length:
            raise ValueError(
                f"{len(job.start.tokens)} slots are given, of {engine.max_length} that a row has"
            )
        check_canvas(job.start.canvas(engine.max_length, end), job.sampler, engine.process)
        ticket = Ticket(number, job, job.sampler.settings(1, engine.max_length))
        room = len(job.start.tokens) + (not job.start.closed.all())
        self._queue(ticket, min(room, engine.max_length))
        self._added += 1
        return number

    def cancel(self, number: int) -> None:
        """Forgets a job; one that is finished already is none of its business."""
        if number in self._tickets:
            ticket, pool = self._tickets.pop(number)
            pool.remove(ticket)

    def step(self) -> list[tuple[int, Frame | Row]]:
        """Returns (job's number, frame or finished row) after some calls of the network.

        The fullest pool has its turn, or one that has waited long. While somebody watches, each
        call is looked at.
        """
        pools = [pool for pool in self._pools.values() if pool.load]
        if not pools:
            return []
        late = [pool for pool in pools if pool.skipped >= _PATIENCE]
        chosen = max(late or pools, key=lambda pool: (pool.load, pool.length))
        for pool in pools:
            pool.skipped = 0 if pool is chosen else pool.skipped + 1
        watched = any(ticket.job.watched for ticket, _ in self._tickets.values())
        events = []
        for ticket, found in chosen.dispatch(self._params, 1 if watched else self._engine.calls):
            if isinstance(found, Frame):
                events.append((ticket.number, found))
            elif found.outgrown[0]:
                ticket.state = found.replace(outgrown=np.zeros(1, bool))
                self._queue(ticket, chosen.length + 1)
            else:
                del self._tickets[ticket.number]
                end = self._engine.process.vocabulary.end
                events.append((ticket.number, row_of(found, end)))
        return events

    def _queue(self, ticket: Ticket, length: int) -> None:
        """Lets a ticket wait for a place in the shortest buffer of at least so many slots."""
        engine, job = self._engine, ticket.job
        size = min(n for n in engine.lengths if n >= length)
        kinds = job.sampler.kinds
        key = (kinds, size, job.watched)
        if key not in self._pools:
            self._forget_unused()
            program = make_program(
                engine.denoiser, engine.process, kinds, engine.mesh, grows=size < engine.lengths[-1]
            )
            self._pools[key] = Pool(
                program,
                kinds,
                engine.process,
                engine.mesh,
                (engine.rows(size), size),
                watched=job.watched,
            )
        # The last one is the one used last.
        pool = self._pools[key] = self._pools.pop(key)
        pool.waiting.append(ticket)
        self._tickets[ticket.number] = (ticket, pool)

    def _forget_unused(self) -> None:
        """Makes room for another pool: kinds of samplers are without number."""
        unused = [key for key, pool in self._pools.items() if not pool.load]
        for key in unused[: len(unused) - _KEPT + 1]:
            del self._pools[key]


def buffer_lengths(length: int, smallest: int = 64) -> tuple[int, ...]:
    """Returns the lengths of buffers: powers of two from smallest up, and the length itself."""
    sizes = []
    while smallest < length:
        sizes.append(smallest)
        smallest *= 2
    return (*sizes, length)
