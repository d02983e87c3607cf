"""Rows of one length and kind that a program works on together, and those that wait for a place."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int

from flexmdm_jax.generation.starts import Start
from flexmdm_jax.generation.trace.frames import Frame
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import Canvas, Marks, SamplerConfig, Settings, State, advance
from flexmdm_jax.sharding import num_batch_shards, spread_rows
from flexmdm_jax.types import Denoiser


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A row to grow.

    Attributes:
      start: What from.
      sampler: How.
      seed: With the number, all of its noise.
      number: See seed.
      watched: Whether every call of the network is to be reported.
    """

    start: Start
    sampler: SamplerConfig
    seed: int
    number: int = 0
    watched: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A finished row.

    Attributes:
      tokens: Without END.
      fixed: Which of them were given.
      calls: Of the network.
      inserted: Insertions.
      broken: Of them those whose rate was above its bound; see Samples.
      truncated: Whether an insertion found no room.
      cut_short: Whether calls ran out.
    """

    tokens: Int[np.ndarray, "n"]
    fixed: Bool[np.ndarray, "n"]
    calls: int
    inserted: int
    broken: int
    truncated: bool
    cut_short: bool


@dataclasses.dataclass(eq=False)
class Ticket:
    """A job on its way.

    Attributes:
      number: What it is called by.
      job: The job.
      settings: Its sampler's numbers, of a single row.
      state: Where it stands, a single row, while it waits for a place; None before its first.
    """

    number: int
    job: Job
    settings: Settings
    state: State | None = None


class Pool:
    """Places for rows of one length and kind.

    Rows lie on the host between two dispatches, so that placing, moving and reading them is
    indexing. Of a row's results its neighbours decide nothing: neither which rows they are nor how
    many, since the program's shapes are always the same.

    Attributes:
      length: Slots of a row.
      rows: Places.
      waiting: Tickets without a place, first come, first served.
      skipped: Dispatches of other pools since this one's last.
    """

    def __init__(
        self,
        program: Callable[..., State],
        kinds: SamplerConfig,
        process: Process,
        mesh: Mesh,
        shape: tuple[int, int],
        *,
        watched: bool,
    ):
        """Returns a pool whose places are free.

        Args:
          program: See make_program().
          kinds: Of all its rows' samplers.
          process: What the network was trained on.
          mesh: Whose devices share the rows.
          shape: (rows, length).
          watched: Whether rows have marks.
        """
        self.rows, self.length = shape
        self.waiting: collections.deque[Ticket] = collections.deque()
        self.skipped = 0
        self._program, self._mesh, self._end = program, mesh, process.vocabulary.end
        self._tickets: list[Ticket | None] = [None] * self.rows
        self._state = blank_state(kinds, process, shape, watched=watched)
        self._blank = blank_state(kinds, process, (1, self.length), watched=watched)
        # The temperature of free places is 0: nobody draws noise for them.
        self._settings = jax.tree.map(np.zeros_like, kinds.settings(*shape))
        self._seeds, self._numbers = np.zeros((2, self.rows), np.uint32)

    @property
    def tickets(self) -> list[Ticket]:
        """Returns those that have a place."""
        return [ticket for ticket in self._tickets if ticket]

    @property
    def load(self) -> float:
        """Returns the share of places that would be taken if all that wait had one."""
        return min(1.0, (len(self.tickets) + len(self.waiting)) / self.rows)

    def dispatch(self, params: Any, calls: int) -> Iterator[tuple[Ticket, Frame | State]]:
        """Yields, for every row that was watched or came to rest, where it stands now.

        A Frame is what a watched row looks like after the call. A State, a single row, is that of
        one that rests: done, or outgrown. Its place is free then.

        Args:
          params: Parameters.
          calls: Calls of the network at most. With rows waiting it may be fewer: places are filled
            as soon as an eighth of them is free.
        """
        yield from self._admit()
        enough = max(1, self.rows // 8) if self.waiting else self.rows
        places = (self._settings, self._seeds, self._numbers)
        limits = (np.int32(calls), np.int32(enough))
        # Where attention's kernels find it.
        with jax.set_mesh(self._mesh):
            state = self._program(params, self._state, *places, *limits)
        # Copies, which can be written to.
        self._state = jax.tree.map(np.array, state)
        for place, ticket in enumerate(self._tickets):
            if ticket is None:
                continue
            if ticket.job.watched and not self._state.outgrown[place]:
                yield ticket, frame_of(self._state, place, self._end)
            if self._state.done[place] or self._state.outgrown[place]:
                yield ticket, self._of(place)
                self._free(place)

    def remove(self, ticket: Ticket) -> None:
        """Lets a ticket go, wherever it is."""
        if ticket in self.waiting:
            self.waiting.remove(ticket)
        if ticket in self._tickets:
            self._free(self._tickets.index(ticket))

    def _admit(self) -> Iterator[tuple[Ticket, Frame]]:
        """Gives places to those that wait, and yields the first frame of those that are watched."""
        for place, taken in enumerate(self._tickets):
            if not self.waiting:
                return
            if taken is None:
                ticket = self.waiting.popleft()
                is_new = ticket.state is None
                self._place(ticket, place)
                if is_new and ticket.job.watched:
                    yield ticket, frame_of(self._state, place, self._end)

    def _place(self, ticket: Ticket, place: int) -> None:
        state = ticket.state or self._start(ticket.job.start)
        _put(self._state, place, widened(state, self.length, self._end))
        _put(self._settings, place, ticket.settings)
        self._seeds[place], self._numbers[place] = ticket.job.seed, ticket.job.number
        self._tickets[place], ticket.state = ticket, None

    def _start(self, start: Start) -> State:
        canvas = start.canvas(self.length, self._end)
        blank = self._blank
        canvas = canvas.replace(marks=blank.canvas.marks)
        return blank.replace(canvas=canvas, done=np.zeros(1, bool))

    def _free(self, place: int) -> None:
        self._tickets[place] = None
        self._state.done[place] = True
        self._settings.temperature[place] = 0.0

    def _of(self, place: int) -> State:
        return jax.tree.map(lambda x: x[place : place + 1].copy(), self._state)


def _put(arrays: Any, place: int, row: Any) -> None:
    """Writes a single row into a place of arrays of the same structure."""
    for array, own in zip(jax.tree.leaves(arrays), jax.tree.leaves(row), strict=True):
        array[place] = own[0]


@functools.lru_cache(maxsize=64)
def make_program(
    denoiser: Callable[[Any], Denoiser],
    process: Process,
    kinds: SamplerConfig,
    mesh: Mesh,
    *,
    grows: bool,
) -> Callable[..., State]:
    """Returns advance(), jitted: (params, state, settings, seeds, numbers, calls, enough) -> state.

    A row's key is that of its seed with its number folded in. Samplers that differ in numbers alone
    share it; it is compiled once for every shape.

    Args:
      denoiser: Parameters -> Denoiser.
      process: What the network was trained on.
      kinds: Of samplers, as SamplerConfig.kinds has them.
      mesh: Whose devices share the rows.
      grows: Whether there are longer rows.
    """

    def run(params, state: State, settings: Settings, seeds, numbers, calls, enough) -> State:
        keys = jax.vmap(lambda seed, n: jax.random.fold_in(jax.random.key(seed), n))(seeds, numbers)
        return advance(
            keys,
            denoiser(params),
            state,
            kinds,
            process,
            settings,
            calls=calls,
            enough=enough,
            grows=grows,
            num_groups=num_batch_shards(mesh),
        )

    return spread_rows(mesh, run)


def blank_state(
    kinds: SamplerConfig, process: Process, shape: tuple[int, int], *, watched: bool
) -> State:
    """Returns rows of padding, all done, in NumPy.

    Args:
      kinds: Of samplers: what the pace keeps is its own.
      process: What the network was trained on.
      shape: (rows, length).
      watched: Whether rows have marks.
    """
    empty = np.zeros(shape, np.int32)
    marks = Marks(empty, empty.astype(np.float32)) if watched else None
    canvas = Canvas(empty, empty, empty > 0, empty > 0, marks)
    # Copies, which can be written to.
    state = jax.tree.map(np.array, State.start(canvas, kinds.pace.start(canvas, process)))
    state.canvas.tokens[:] = process.vocabulary.end
    state.done[:] = True
    if watched:
        state.canvas.marks.confidence[:] = np.nan
    return state


def widened(state: State, length: int, end: int) -> State:
    """Returns a state in NumPy whose rows have more padding: length slots in all."""
    old = state.canvas.tokens.shape[1]

    def widen(x):
        slots = ((0, 0), (0, length - old), *((0, 0),) * (x.ndim - 2))
        return np.pad(x, slots) if x.ndim > 1 and x.shape[1] == old else x

    wide = jax.tree.map(widen, state)
    wide.canvas.tokens[:, old:] = end
    return wide


def _written(state: State, place: int, end: int) -> slice:
    """Returns the slots of a row up to its first END, of which MDM may have many."""
    canvas = state.canvas
    size = int(np.sum(canvas.segment_ids[place] > 0))
    ends = np.flatnonzero(canvas.tokens[place, :size] == end)
    return slice(0, int(ends[0]) if len(ends) else size)


def row_of(state: State, end: int) -> Row:
    """Returns what a finished row, alone in its state, has come to."""
    written = _written(state, 0, end)
    return Row(
        tokens=state.canvas.tokens[0, written],
        fixed=state.canvas.fixed[0, written],
        calls=int(state.calls[0]),
        inserted=int(state.inserted[0]),
        broken=int(state.broken[0]),
        truncated=bool(state.truncated[0]),
        cut_short=bool(state.cut_short[0]),
    )


def frame_of(state: State, place: int, end: int) -> Frame:
    """Returns what a row with marks looks like."""
    written, canvas = _written(state, place, end), state.canvas
    of = lambda x: x[place, written].tolist()  # noqa: E731
    confidence = of(canvas.marks.confidence)
    return Frame(
        call=int(state.calls[place]),
        time=1.0 if state.done[place] else float(state.t[place]),
        tokens=tuple(of(canvas.tokens)),
        changed=tuple(of(canvas.marks.changed)),
        confidence=tuple(None if np.isnan(x) else x for x in confidence),
        fixed=tuple(of(canvas.fixed)),
    )
