"""Requests in, results out: texts become rows of the engine, and finished rows texts."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flexmdm_jax.data.tokenizers import Tokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.generation.engine import Engine
from flexmdm_jax.generation.pools import Job, Row
from flexmdm_jax.generation.requests import Failure, Part, Request
from flexmdm_jax.generation.results import Result
from flexmdm_jax.generation.starts import Start
from flexmdm_jax.generation.texts import encode_parts
from flexmdm_jax.generation.trace.frames import Frame
from flexmdm_jax.sampling import SamplerConfig, check_canvas


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a sample looks like after a call of the network.

    Attributes:
      request: Its request.
      sample: Its number among the request's samples.
      frame: It.
    """

    request: Request
    sample: int
    frame: Frame


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """A request in tokens.

    Attributes:
      request: With a seed.
      start: What its samples grow from.
      gaps: Where something is written, counted in given tokens.
      num_given: Tokens that are given.
    """

    request: Request
    start: Start
    gaps: tuple[int, ...]
    num_given: int

    def job(self, sample: int, *, watched: bool = False) -> Job:
        """Returns one of its samples as a job of an engine."""
        request = self.request
        return Job(self.start, request.sampler, request.seed, sample, watched)


@dataclasses.dataclass(frozen=True, eq=False)
class Writer:
    """Answers requests with one model.

    Attributes:
      engine: What grows rows.
      params: Parameters.
      tokenizer: The one that the model was trained with.
      check_sampler: Raises UserError if the network does not give what a sampler needs.
    """

    engine: Engine
    params: Any
    tokenizer: Tokenizer
    check_sampler: Callable[[SamplerConfig], None]

    def encode(self, request: Request) -> Encoded:
        """Returns a request in tokens.

        Args:
          request: With a seed.

        Raises:
          UserError: If the tokenizer, the method or the network cannot do what it asks for, or it
            does not fit.
        """
        engine = self.engine
        process, length = engine.process, engine.max_length
        self.check_sampler(request.sampler)
        parts = self._tokens(request)
        ends = [0]
        for tokens in parts:
            ends.append(ends[-1] + len(tokens))
        gaps = tuple(ends[gap] for gap in request.gaps)
        try:
            given = [x for tokens in parts for x in tokens]
            start = Start.of(given, gaps, process, length, request.canvas)
            check_canvas(start.canvas(length, process.vocabulary.end), request.sampler, process)
        except ValueError as error:
            raise UserError(str(error)) from None
        return Encoded(request, start, gaps, ends[-1])

    def _tokens(self, request: Request) -> list[list[int]]:
        """Returns the token ids of each part."""
        texts = [part if isinstance(part, str) else "" for part in request.parts]
        encoded = encode_parts(self.tokenizer, texts, request.gaps[:1] == (0,))
        return [
            tokens if isinstance(part, str) else self._ids(part)
            for part, tokens in zip(request.parts, encoded, strict=True)
        ]

    def _ids(self, part: Part) -> list[int]:
        vocabulary = self.engine.process.vocabulary
        special = {vocabulary.mask: "MASK", vocabulary.end: "END"}
        for token in part:
            if token in special:
                raise UserError(f"token id {token} is {special[token]}, which cannot be given")
            if not 0 <= token < vocabulary.size:
                raise UserError(
                    f"token id {token}: there are ids from 0 to {vocabulary.size - 1} only"
                )
        return list(part)

    def answer(
        self,
        requests: Iterable[Request | Failure],
        *,
        strict: bool = True,
        watched: bool = False,
        skip: int = 0,
    ) -> Iterator[Result | Failure | Seen]:
        """Yields the samples of requests in their order, as soon as all before them are there.

        Args:
          requests: With seeds; taken as places become free. Failures are passed on.
          strict: Raise if a request cannot be answered, instead of yielding a Failure.
          watched: Yield every sample's frames as well, when they come.
          skip: Leave out so many results.

        Raises:
          UserError: If a request cannot be answered, if strict.
        """
        desk = _Desk(self, strict, watched)
        for number, event in self.engine.run(self.params, desk.jobs(requests, skip)):
            if isinstance(event, Frame):
                yield desk.seen(number, event)
            else:
                desk.take(number, event)
                yield from desk.ready()
        yield from desk.ready()


class _Desk:
    """Puts results into the order of their requests."""

    def __init__(self, writer: Writer, strict: bool, watched: bool):
        self._writer, self._strict, self._watched = writer, strict, watched
        # What comes next, and of a job what it is for.
        self._order: collections.deque[int | Failure] = collections.deque()
        self._asked: dict[int, tuple[Encoded, int]] = {}
        self._found: dict[int, Result] = {}

    def jobs(self, requests: Iterable[Request | Failure], skip: int) -> Iterator[Job]:
        """Yields the jobs of requests, and notes what they are for."""
        number = 0
        for request in requests:
            encoded = request if isinstance(request, Failure) else self._encode(request)
            failed = isinstance(encoded, Failure)
            first, skip = skip, max(0, skip - (1 if failed else request.n))
            if failed:
                self._order.extend([encoded][first:])
                continue
            for sample in range(first, request.n):
                self._asked[number] = (encoded, sample)
                self._order.append(number)
                number += 1
                yield encoded.job(sample, watched=self._watched)

    def _encode(self, request: Request) -> Encoded | Failure:
        try:
            return self._writer.encode(request)
        except UserError as error:
            if self._strict:
                raise
            return Failure(request.id, str(error))

    def seen(self, number: int, frame: Frame) -> Seen:
        """Returns what a job looks like."""
        encoded, sample = self._asked[number]
        return Seen(encoded.request, sample, frame)

    def take(self, number: int, row: Row) -> None:
        """Takes the finished row of a job."""
        encoded, sample = self._asked.pop(number)
        tokenizer = self._writer.tokenizer
        self._found[number] = Result.of(row, encoded.request, sample, encoded.gaps, tokenizer)

    def ready(self) -> Iterator[Result | Failure]:
        """Yields what is next, as far as it is there."""
        while self._order and (
            isinstance(self._order[0], Failure) or self._order[0] in self._found
        ):
            first = self._order.popleft()
            yield first if isinstance(first, Failure) else self._found.pop(first)
