"""Answers that a client watches: events of text after every call of the network."""

import functools
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.responses import StreamingResponse

from flexmdm_jax.data.tokenizers import Tokenizer, piece_behind
from flexmdm_jax.files import json_bytes
from flexmdm_jax.generation.results import Result
from flexmdm_jax.generation.texts import visible
from flexmdm_jax.generation.trace.encoding import frame_to_json, pieces_to_json
from flexmdm_jax.generation.trace.frames import Frame
from flexmdm_jax.serving.asks import Ask, finish_reason, replayable, usage
from flexmdm_jax.serving.errors import ApiError
from flexmdm_jax.serving.forms import Form, envelope
from flexmdm_jax.serving.service import Running, Service

_DONE = b"data: [DONE]\n\n"
# What no client reads, and proxies take for life; sent after so many seconds without news.
_ALIVE, _PATIENCE = b": waiting\n\n", 15.0


class EventStream(StreamingResponse):
    """Server-sent events about a request, which is let go when they end or the client leaves."""

    def __init__(self, service: Service, form: Form, ask: Ask, running: Running):
        """Returns the response of a request that has been taken on.

        Args:
          service: That answers it.
          form: Of the answer.
          ask: What was asked for.
          running: It.
        """
        # The second is for proxies that would hold events back.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(
            _events(service, form, ask, running), media_type="text/event-stream", headers=headers
        )
        self._running = running

    async def __call__(self, scope, receive, send) -> None:
        """Sends the events."""
        with self._running:
            await super().__call__(scope, receive, send)


async def _events(service: Service, form: Form, ask: Ask, running: Running) -> AsyncIterator[bytes]:
    own = envelope(form, service.served.name)
    if ask.include_usage:
        own["usage"] = None
    frames = Frames(service.writer.tokenizer)
    found: dict[int, Result] = {}
    try:
        while running.unread:
            match await running.next(_PATIENCE):
                case None:
                    yield _ALIVE
                case place, Frame() as frame:
                    if change := frames.change(place, frame):
                        choice = {"text": "", "index": place, "finish_reason": None}
                        yield _event(own | {"choices": [choice], "flexmdm": change})
                case place, result:
                    found[place] = result
                    last = {} if running.unread else {"flexmdm": _record(service, ask, found)}
                    choice = choice_of(service, form, ask, running, place, result)
                    yield _event(own | {"choices": [choice]} | last)
        if ask.include_usage:
            counted = usage(running.encoded, list(found.values()))
            yield _event(own | {"choices": [], "usage": counted})
        yield _DONE
    except ApiError as error:
        yield _event(error.json())


def choice_of(
    service: Service, form: Form, ask: Ask, running: Running, place: int, result: Result
) -> dict[str, Any]:
    """Returns a finished sample as answers have it."""
    reason = finish_reason(result, running.asked(place), service.writer.engine)
    return form.choice(ask, result) | {"index": place, "finish_reason": reason}


def _record(service: Service, ask: Ask, found: Mapping[int, Result]) -> dict[str, Any]:
    results = [found[place] for place in sorted(found)]
    return replayable(ask, results, service.served.circumstances)


def _event(values: Mapping[str, Any]) -> bytes:
    return b"data: " + json_bytes(values, separators=(",", ":")) + b"\n\n"


class Frames:
    """What a client has seen of the samples of a request."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._mask = tokenizer, tokenizer.vocabulary.mask
        self._seen: dict[int, Frame] = {}
        self._known = {self._mask}

    def change(self, place: int, frame: Frame) -> dict[str, Any] | None:
        """Returns what is new of a sample, or None if that is nothing.

        It is the frame as a change of the one before, the text as it is to be seen, and what tokens
        stand for that this stream has not had before.
        """
        before = self._seen.get(place)
        values = frame_to_json(frame, before, self._mask)
        if before and frame.time < 1 and values.keys() <= {"call", "time"}:
            return None
        self._seen[place] = frame
        unknown = set(frame.tokens) - self._known
        self._known |= unknown
        pieces = pieces_to_json(unknown, functools.partial(piece_behind, self._tokenizer))
        return {
            "frame": values,
            "text": visible(self._tokenizer, frame.tokens),
            "pieces": pieces,
        }
