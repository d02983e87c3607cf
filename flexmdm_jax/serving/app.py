"""The addresses of a server, and what each answers."""

import asyncio
import functools
import hmac
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from flexmdm_jax.errors import UserError
from flexmdm_jax.files import json_bytes
from flexmdm_jax.generation.parsing import parse_json
from flexmdm_jax.generation.writer import Encoded
from flexmdm_jax.serving.asks import Ask, check_model, param_of, replayable, usage
from flexmdm_jax.serving.errors import ApiError, failed
from flexmdm_jax.serving.forms import Completions, Form, Infilling, envelope
from flexmdm_jax.serving.metrics import CONTENT_TYPE, Metrics
from flexmdm_jax.serving.playground import page
from flexmdm_jax.serving.service import Phase, Service
from flexmdm_jax.serving.streams import EventStream, choice_of

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]

# All that the page may load comes from this server or stands in it.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def make_app(service: Service, key: str = "") -> Starlette:
    """Returns the ASGI application of a service.

    Args:
      service: What answers.
      key: What clients have to know to ask for anything but the page and the health; "" for none.
    """
    post = functools.partial(Route, methods=["POST"])
    keyed = functools.partial(_keyed, key=key.encode())
    html = page(service, needs_key=bool(key))
    routes = [
        post("/v1/completions", keyed(_generator(service, Completions()))),
        post("/v1/infill", keyed(_generator(service, Infilling()))),
        Route("/v1/models", keyed(_models(service))),
        Route("/v1/models/{name:path}", keyed(_model(service))),
        Route("/metrics", keyed(_metrics(service))),
        Route("/health", _health(service)),
        Route("/favicon.ico", _nothing),
        Route("/", _page(html)),
    ]
    paths = {route.path for route in routes if "{" not in route.path}
    counting = Middleware(_Counting, metrics=service.metrics, paths=paths)
    handlers = {ApiError: _told, HTTPException: _refused, Exception: _failed}
    return Starlette(routes=routes, middleware=[counting], exception_handlers=handlers)


def _generator(service: Service, form: Form) -> Endpoint:
    async def generate(request: Request) -> Response:
        service.check_open()
        body = await _body(request, service)
        ask, encoded = await service.read(lambda: _read(body, form, service))
        running = service.submit(encoded, watched=ask.stream)
        if ask.stream:
            return EventStream(service, form, ask, running)
        with running:
            results = await _unless_gone(request, running.results())
        choices = [
            choice_of(service, form, ask, running, place, result)
            for place, result in enumerate(results)
        ]
        return _json(
            {
                **envelope(form, service.served.name),
                "choices": choices,
                "usage": usage(encoded, results),
                "flexmdm": replayable(ask, results, service.served.circumstances),
            }
        )

    return generate


def _read(body: bytes, form: Form, service: Service) -> tuple[Ask, list[Encoded]]:
    """Returns what a body asks for, and that in tokens."""
    values = None
    try:
        values = parse_json(body)
        ask = form.read(values, service.served.name, service.limits.max_n)
        return ask, [service.writer.encode(request) for request in ask.requests]
    except UserError as error:
        message = str(error)
        raise ApiError(400, message, param=param_of(message, values)) from None


async def _body(request: Request, service: Service) -> bytes:
    """Returns what a client sent, which may be neither too long nor too slow."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "send JSON, with the header Content-Type: application/json")
    most, data = service.limits.max_body, bytearray()
    too_long = ApiError(413, f"the body is longer than {most} bytes, which are the most")
    # Python refuses to read numbers of thousands of digits.
    length = request.headers.get("content-length", "0")
    if len(length) > 20 or (length.isdecimal() and int(length) > most):
        raise too_long
    try:
        async with asyncio.timeout(service.limits.timeout):
            async for chunk in request.stream():
                data += chunk
                if len(data) > most:
                    raise too_long
    except TimeoutError:
        raise ApiError(408, "the body did not come in time") from None
    except ClientDisconnect:
        raise _gone() from None
    return bytes(data)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Returns what work comes to, unless the client leaves before."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise _gone()
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


def _gone() -> ApiError:
    # As others log it; nobody reads the answer.
    return ApiError(499, "the client has left")


def _models(service: Service) -> Endpoint:
    async def models(_: Request) -> Response:
        return _json({"object": "list", "data": [_described(service)]})

    return models


def _model(service: Service) -> Endpoint:
    async def model(request: Request) -> Response:
        check_model(request.path_params["name"], service.served.name)
        return _json(_described(service))

    return model


def _described(service: Service) -> dict[str, Any]:
    served = service.served
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "flexmdm_jax",
        "flexmdm": {"step": served.step, **served.circumstances},
    }


def _health(service: Service) -> Endpoint:
    async def health(_: Request) -> Response:
        status = 200 if service.phase is Phase.SERVING else 503
        return _json({"status": service.phase.value}, status)

    return health


def _metrics(service: Service) -> Endpoint:
    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(service.gauges()), media_type=CONTENT_TYPE)

    return metrics


def _page(html: str) -> Endpoint:
    async def playground(_: Request) -> Response:
        return HTMLResponse(html, headers=_PAGE_HEADERS)

    return playground


async def _nothing(_: Request) -> Response:
    return Response(status_code=204)


def _keyed(endpoint: Endpoint, key: bytes) -> Endpoint:
    """Returns an endpoint that answers those who know the key."""
    if not key:
        return endpoint

    @functools.wraps(endpoint)
    async def checked(request: Request) -> Response:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("latin-1"), key)
        if kind.lower() != "bearer" or not same:
            raise ApiError(
                401,
                "the key is missing or wrong; send the header Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return await endpoint(request)

    return checked


def _json(
    values: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(json_bytes(values), status, headers, "application/json")


async def _told(_: Request, error: ApiError) -> Response:
    return _json(error.json(), error.status, error.headers)


async def _refused(request: Request, error: HTTPException) -> Response:
    told = ApiError(error.status_code, error.detail, headers=error.headers)
    return await _told(request, told)


async def _failed(request: Request, _: Exception) -> Response:
    return await _told(request, failed())


class _Counting:
    """Counts requests by path and status, and how long those take that generate."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: set[str]):
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def noting(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests[path, status] += 1
            if scope["method"] == "POST":
                self._metrics.observe(time.monotonic() - started)
