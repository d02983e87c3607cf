"""A service at an address: it listens, serves, and stops when it is told to."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette

from flexmdm_jax.errors import UserError
from flexmdm_jax.serving.service import Phase, Service

# Connections that may wait to be accepted.
_BACKLOG = 2048
# Seconds for answers that have been given to reach their clients.
_LAST_BYTES = 2


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket that nobody else has, and that does not listen yet.

    Args:
      host: A name or an address of this machine.
      port: 0 for one that is free.

    Raises:
      UserError: If nothing can listen there.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        return bound
    # Of a name that cannot be one, such as a..b, Python says what is wrong as a UnicodeError.
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no name of a machine"
        raise UserError(
            f"--host={host} --port={port}: {why}; choose another, --port=0 for any that is free"
        ) from None


def address_of(bound: socket.socket) -> str:
    """Returns the address of a socket as browsers have it."""
    host, port, *_ = bound.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    service: Service,
    app: Starlette,
    bound: socket.socket,
    ready: Callable[[], None],
    *,
    compile_first: bool = True,
) -> bool:
    """Serves until SIGTERM or SIGINT, as serve_until(); a second signal ends the process at once.

    Arguments and what is returned and raised are those of serve_until().
    """

    async def until_signalled() -> bool:
        told = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, _signalled, told, number)
        return await serve_until(told, service, app, bound, ready, compile_first=compile_first)

    return asyncio.run(until_signalled())


async def serve_until(
    told: asyncio.Event,
    service: Service,
    app: Starlette,
    bound: socket.socket,
    ready: Callable[[], None],
    *,
    compile_first: bool = True,
) -> bool:
    """Serves until it is told to stop, finishes what runs, and returns whether it could.

    Args:
      told: Set to stop it.
      service: What answers.
      app: Its application.
      bound: Where; see bind().
      ready: Called when requests are taken.
      compile_first: Have the usual programs compiled before.

    Raises:
      Exception: What kept the service from starting.
    """
    server = _Server(_config(app))
    service.start(compile_first=compile_first)
    answering = asyncio.create_task(server.serve(sockets=[bound]))
    stopping = asyncio.create_task(told.wait())
    starting = asyncio.create_task(service.settled())
    await asyncio.wait({answering, stopping, starting}, return_when=asyncio.FIRST_COMPLETED)
    has_started = service.phase is not Phase.FAILED
    if service.phase is Phase.SERVING:
        ready()
        await asyncio.wait({answering, stopping}, return_when=asyncio.FIRST_COMPLETED)
    # It goes on listening meanwhile, so that clients are told what is the matter.
    finished = await service.stop()
    server.should_exit = True
    await answering
    for task in (starting, stopping):
        task.cancel()
    if not has_started:
        raise service.failure
    return finished


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_LAST_BYTES,
    )


def _signalled(told: asyncio.Event, number: int) -> None:
    if told.is_set():
        os._exit(128 + number)
    print("stopping: what runs is finished; again: at once", file=sys.stderr, flush=True)
    told.set()


class _Server(uvicorn.Server):
    """Uvicorn's, without its handling of signals, which would refuse connections at once."""

    @contextlib.contextmanager
    def capture_signals(self):
        """Captures none."""
        yield
