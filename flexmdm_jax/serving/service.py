"""A model at work for many clients: how much it takes on, and what becomes of each request."""

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import enum
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from flexmdm_jax.generation.pools import Row
from flexmdm_jax.generation.results import Result
from flexmdm_jax.generation.trace.frames import Frame
from flexmdm_jax.generation.writer import Encoded, Writer
from flexmdm_jax.ranges import Count, Ranged, Seconds
from flexmdm_jax.serving.errors import ApiError, failed, unavailable
from flexmdm_jax.serving.metrics import Metrics
from flexmdm_jax.serving.worker import Event, Order, Worker, warm_up

T = TypeVar("T")

# Frames that may wait for a client that reads slowly.
_FRAMES_BEHIND = 64
# Threads that read requests: tokenizers take their time, and the event loop has none.
_READERS = 4
# Seconds after which a client of a server that is starting or full may ask again.
_SOONEST, _LATEST = 1, 60
# Seconds for the device's thread to end when it has nothing more to do.
_JOIN = 5.0


@dataclasses.dataclass(frozen=True)
class Limits(Ranged):
    """How much a server takes on.

    Attributes:
      max_waiting: Samples that may wait for a place; with as many, a request is turned away.
      max_n: Samples of a request, over all its prompts.
      max_body: Bytes of a request.
      timeout: Seconds that a request may take.
      shutdown_seconds: Seconds that requests have to finish once the server is told to stop.
    """

    max_waiting: Count = 1024
    max_n: Count = 128
    max_body: Count = 2**20
    timeout: Seconds = 600
    shutdown_seconds: Seconds = 30


class Phase(enum.Enum):
    """What a server does at the moment; its value is what /health says."""

    STARTING = "starting"
    SERVING = "ok"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Served:
    """What is served.

    Attributes:
      name: What requests call the model.
      step: Steps of training behind it.
      created: When it was trained, in seconds of Unix.
      circumstances: See generation.replay.circumstances().
    """

    name: str
    step: int
    created: int
    circumstances: Mapping[str, Any]


class Service:
    """Answers requests, as many at a time as the device has places; belongs to the event loop.

    Attributes:
      writer: What makes requests rows, and rows results.
      served: What is served.
      limits: How much it takes on.
      metrics: What has happened.
      phase: What it does at the moment.
      failure: Why it is FAILED.
    """

    def __init__(self, writer: Writer, served: Served, limits: Limits):
        """Returns a service that has not started."""
        self.writer, self.served, self.limits = writer, served, limits
        self.metrics = Metrics()
        self.phase = Phase.STARTING
        self.failure: BaseException | None = None
        self._settled = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        # Samples that are not finished.
        self._unfinished = 0
        self._open: set[Running] = set()
        self._readers = concurrent.futures.ThreadPoolExecutor(_READERS, "reader")

    def start(self, *, compile_first: bool = True) -> None:
        """Starts the device's thread.

        Args:
          compile_first: Have the usual programs compiled before requests are taken.
        """
        self._loop = asyncio.get_running_loop()
        jobs = warm_up(self.writer.engine) if compile_first else ()
        report = lambda error: self.call(self._started, error)  # noqa: E731
        self._worker = Worker(self.writer, report, jobs)
        self._worker.start()

    async def settled(self) -> Phase:
        """Returns the phase that follows STARTING, when it does."""
        await self._settled.wait()
        return self.phase

    async def stop(self) -> bool:
        """Returns whether everything came to its end, having let what runs finish.

        New requests are turned away at once; those that take longer than they may get an error.
        """
        if self.phase is not Phase.FAILED:
            self.phase = Phase.STOPPING
        self._settled.set()
        try:
            await asyncio.wait_for(self._idle.wait(), self.limits.shutdown_seconds)
        except TimeoutError:
            for running in list(self._open):
                running.put(-1, unavailable("the server is stopping", _SOONEST))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), _SOONEST)
        self._readers.shutdown(wait=False)
        return await asyncio.to_thread(self._worker.stop, _JOIN)

    async def read(self, work: Callable[[], T]) -> T:
        """Returns work(), done in a thread beside the event loop.

        Raises:
          ApiError: If nothing is taken on any more.
        """
        self.check_open()
        return await self._loop.run_in_executor(self._readers, work)

    def check_open(self) -> None:
        """Raises ApiError unless a request can be taken on."""
        if self.phase is Phase.FAILED:
            raise unavailable("the server has failed; its log says why", _LATEST)
        if self.phase is not Phase.SERVING:
            raise unavailable(f"the server is {self.phase.value}", _SOONEST)
        if self.num_waiting >= self.limits.max_waiting:
            seconds = min(max(math.ceil(self.metrics.mean_seconds), _SOONEST), _LATEST)
            raise ApiError(
                429,
                f"{self.num_waiting} samples wait already; try again later",
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(seconds)},
            )

    def submit(self, encoded: Sequence[Encoded], *, watched: bool) -> "Running":
        """Returns a request that has been taken on; it has to be closed, whatever happens.

        Args:
          encoded: It, in tokens.
          watched: Whether frames are wanted.

        Raises:
          ApiError: If it cannot be taken on.
        """
        self.check_open()
        running = Running(self, encoded, watched=watched)
        self._open.add(running)
        self._unfinished += running.left
        self._idle.clear()
        self._worker.submit(running.order)
        return running

    @property
    def num_waiting(self) -> int:
        """Returns how many samples wait for a place, or are on the way to the device's thread."""
        return max(0, self._unfinished - self._worker.load.placed)

    def gauges(self) -> dict[str, tuple[str, int]]:
        """Returns figures that hold now, see Metrics.text()."""
        load = self._worker.load
        return {
            "requests_running": ("Requests that are being answered.", len(self._open)),
            "samples_waiting": ("Samples that wait for a place.", self.num_waiting),
            "samples_placed": ("Samples that have a place in a batch.", load.placed),
            "places": ("Places in all batches that have been asked for.", load.places),
            "pools": ("Kinds and shapes of batches, each a program.", load.pools),
            "up": ("1 while requests are taken.", int(self.phase is Phase.SERVING)),
        }

    def count(self, row: Row, num_generated: int) -> None:
        """Counts a row that is finished."""
        self._unfinished -= 1
        self.metrics.samples += 1
        self.metrics.calls += row.calls
        self.metrics.tokens += num_generated

    def close(self, running: "Running") -> None:
        """Lets a request go; see Running.close()."""
        self._open.remove(running)
        self._unfinished -= running.left
        if running.left:
            self._worker.cancel(running.order)
        if not self._open:
            self._idle.set()

    def call(self, fn: Callable[..., None], *arguments: Any) -> None:
        """Has the event loop call a function; for other threads."""
        # Who stops does not wait for a thread that is stuck.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(fn, *arguments)

    def _started(self, error: BaseException | None) -> None:
        if error is not None:
            self.phase, self.failure = Phase.FAILED, error
        elif self.phase is Phase.STARTING:
            self.phase = Phase.SERVING
        self._settled.set()


class Running:
    """A request that is being answered.

    Attributes:
      encoded: It, in tokens.
      order: Its rows.
      left: Samples that the device has not finished.
      unread: Samples that next() has not returned.
    """

    def __init__(self, service: Service, encoded: Sequence[Encoded], *, watched: bool):
        """Returns the request, for Service.submit()."""
        self.encoded = tuple(encoded)
        # Of each place, which request and which of its samples.
        self._places = [(x, sample) for x in self.encoded for sample in range(x.request.n)]
        self.left = self.unread = len(self._places)
        self._closed = False
        jobs = [x.job(sample, watched=watched) for x, sample in self._places]
        self.order = Order(jobs, lambda *event: service.call(self.put, *event))
        self._service = service
        self._events: collections.deque[tuple[int, Event]] = collections.deque()
        self._arrived = asyncio.Event()
        self._deadline = asyncio.get_running_loop().time() + service.limits.timeout

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Lets it go; rows that are not finished make room for others."""
        if not self._closed:
            self._closed = True
            self._service.close(self)

    def put(self, place: int, event: Event) -> None:
        """Takes what became of a place, or of the whole at -1."""
        if self._closed:
            return
        # The last frame of a row has to be seen, others are made up for by those that follow.
        behind = len(self._events) >= _FRAMES_BEHIND
        if behind and isinstance(event, Frame) and event.time < 1:
            return
        if isinstance(event, Row):
            self.left -= 1
            self._service.count(event, len(event.tokens) - self.asked(place).num_given)
        self._events.append((place, event))
        self._arrived.set()

    async def next(self, patience: float = math.inf) -> tuple[int, Frame | Result] | None:
        """Returns (place, what became of it), or None if nothing has within so many seconds.

        Raises:
          ApiError: If the request has taken too long, or something is wrong with the device.
        """
        while not self._events:
            self._arrived.clear()
            rest = self._deadline - asyncio.get_running_loop().time()
            try:
                await asyncio.wait_for(self._arrived.wait(), min(rest, patience))
            except TimeoutError:
                if patience < rest:
                    return None
                limit = self._service.limits.timeout
                message = f"the request took more than {limit} seconds; ask for less at a time"
                raise ApiError(504, message, kind="timeout", code="timeout") from None
        place, event = self._events.popleft()
        if isinstance(event, Frame):
            return place, event
        if isinstance(event, Row):
            return place, self._result(place, event)
        if isinstance(event, ApiError):
            raise event
        raise failed()

    async def results(self) -> list[Result]:
        """Returns all samples, in order; see next() for what it raises."""
        found: dict[int, Result] = {}
        while self.unread:
            place, result = await self.next()
            found[place] = result
        return [found[place] for place in sorted(found)]

    def asked(self, place: int) -> Encoded:
        """Returns the request that a place belongs to."""
        return self._places[place][0]

    def _result(self, place: int, row: Row) -> Result:
        encoded, sample = self._places[place]
        self.unread -= 1
        tokenizer = self._service.writer.tokenizer
        return Result.of(row, encoded.request, sample, encoded.gaps, tokenizer)
