"""The thread that owns the device: orders in, frames and rows out."""

import contextlib
import dataclasses
import queue
import threading
from collections.abc import Callable, Sequence

from absl import logging

from flexmdm_jax.generation.engine import Engine, Scheduler
from flexmdm_jax.generation.pools import Job, Row
from flexmdm_jax.generation.starts import Start
from flexmdm_jax.generation.trace.frames import Frame
from flexmdm_jax.generation.writer import Writer
from flexmdm_jax.sampling import SamplerConfig

Event = Frame | Row | BaseException


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """Rows that somebody waits for.

    Attributes:
      jobs: How they are grown.
      report: Told (place among the jobs, frame or finished row), or (-1, error) once and then
        nothing more. It is called in the worker's thread and must not take long.
    """

    jobs: Sequence[Job]
    report: Callable[[int, Event], None]


@dataclasses.dataclass(frozen=True)
class Load:
    """How busy the device is.

    Attributes:
      placed: Rows that have a place.
      waiting: Rows that wait for one.
      places: Places of all pools.
      pools: Pools; each is the shape of a program.
    """

    placed: int = 0
    waiting: int = 0
    places: int = 0
    pools: int = 0


class Worker:
    """Works orders off, all of them together, in a thread of its own.

    No method waits for the device. An error there ends the work for good: every order is told, and
    so are those that come later.

    Attributes:
      load: How busy the device is; renewed between two dispatches.
    """

    def __init__(
        self,
        writer: Writer,
        ready: Callable[[BaseException | None], None],
        warm_up: Sequence[Job] = (),
    ):
        """Returns a worker that has not started.

        Args:
          writer: Whose engine and parameters it works with.
          ready: Called in the worker's thread when it takes orders, and with an error if it never
            will again.
          warm_up: What it does before.
        """
        self.load = Load()
        self._writer, self._ready, self._warm_up = writer, ready, warm_up
        # (order, whether to work it off rather than to forget it); None to stop.
        self._inbox: queue.SimpleQueue[tuple[Order, bool] | None] = queue.SimpleQueue()
        self._asked: dict[int, tuple[Order, int]] = {}
        self._numbers: dict[Order, list[int]] = {}
        # A daemon, as a call of the device cannot be broken off.
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def submit(self, order: Order) -> None:
        """Has an order worked off."""
        self._inbox.put((order, True))

    def cancel(self, order: Order) -> None:
        """Has an order forgotten: its rows make room, and it is told nothing more, or little."""
        self._inbox.put((order, False))

    def stop(self, timeout: float) -> bool:
        """Returns whether the thread has ended in time, having been told to; in seconds."""
        self._inbox.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            scheduler = Scheduler(self._writer.engine, self._writer.params)
            for job in self._warm_up:
                scheduler.add(job)
            while scheduler.busy:
                scheduler.step()
            self._ready(None)
            while self._take(scheduler):
                self._step(scheduler)
        except BaseException as error:
            logging.exception("the device's thread has failed")
            self._fail(error)

    def _take(self, scheduler: Scheduler) -> bool:
        """Takes what has come in, waiting for it if there is nothing else to do; False to stop."""
        with contextlib.suppress(queue.Empty):
            while (message := self._inbox.get(block=not scheduler.busy)) is not None:
                order, wanted = message
                if wanted:
                    self._add(scheduler, order)
                else:
                    self._forget(scheduler, order)
                self._note(scheduler)
            return False
        return True

    def _add(self, scheduler: Scheduler, order: Order) -> None:
        numbers = self._numbers[order] = []
        try:
            for place, job in enumerate(order.jobs):
                numbers.append(scheduler.add(job))
                self._asked[numbers[-1]] = (order, place)
        except ValueError as error:
            logging.exception("a job that had been checked was refused")
            self._forget(scheduler, order)
            order.report(-1, error)

    def _forget(self, scheduler: Scheduler, order: Order) -> None:
        for number in self._numbers.pop(order, ()):
            scheduler.cancel(number)
            self._asked.pop(number, None)

    def _step(self, scheduler: Scheduler) -> None:
        for number, event in scheduler.step():
            order, place = self._asked[number]
            if isinstance(event, Row):
                del self._asked[number]
                self._numbers[order].remove(number)
                if not self._numbers[order]:
                    del self._numbers[order]
            order.report(place, event)
        self._note(scheduler)

    def _note(self, scheduler: Scheduler) -> None:
        self.load = Load(
            scheduler.num_placed, scheduler.num_waiting, scheduler.num_places, scheduler.num_pools
        )

    def _fail(self, error: BaseException) -> None:
        """Tells everybody, now and later."""
        self._ready(error)
        for order in self._numbers:
            order.report(-1, error)
        while (message := self._inbox.get()) is not None:
            order, wanted = message
            if wanted:
                order.report(-1, error)


def warm_up(engine: Engine) -> list[Job]:
    """Returns jobs of a single call that have the usual programs compiled.

    These are the default sampler's of every buffer, for rows that are watched and for others.

    Args:
      engine: Whose programs.
    """
    vocabulary = engine.process.vocabulary
    special = (vocabulary.mask, vocabulary.end)
    token = next(x for x in range(vocabulary.size) if x not in special)
    # What is longer than one buffer begins in the next.
    given = [0, *engine.lengths[:-1]]
    starts = [Start.of([token] * n, [n], engine.process, engine.max_length) for n in given]
    once = SamplerConfig(max_calls=1)
    return [Job(start, once, 0, watched=watched) for watched in (False, True) for start in starts]
