"""A server in a thread of the test's own process, with a network that knows the letters."""

import asyncio
import contextlib
import dataclasses
import threading

import httpx
import letters

from flexmdm_jax.generation.replay import circumstances
from flexmdm_jax.serving.app import make_app
from flexmdm_jax.serving.server import address_of, bind, serve_until
from flexmdm_jax.serving.service import Limits, Served, Service

LENGTH = 32
# What the server calls its model.
NAME = "letters"


def writer(batch_size=4, denoiser=letters.letters):
    """Returns what the server has: rows of a single buffer, so that there are few programs."""
    return letters.writer(batch_size, LENGTH, denoiser)


def service(own=None, name=NAME, **limits):
    own = own or writer()
    served = Served(name, 3, 0, circumstances("abc", own.engine))
    return Service(own, served, Limits(**limits))


@dataclasses.dataclass
class Running:
    """A server that answers at an address."""

    address: str
    service: Service
    stop: object
    thread: threading.Thread

    def client(self, **options):
        return httpx.Client(base_url=self.address, timeout=600, **options)

    def post(self, path="/v1/completions", **values):
        with self.client() as client:
            return client.post(path, json=values)


@contextlib.contextmanager
def serving(own=None, key="", name=NAME, **limits):
    """Gives a Running server, and has it finish and stop."""
    made, going = service(own, name, **limits), threading.Event()
    bound, loops = bind("127.0.0.1", 0), {}

    async def run():
        loops["told"], loops["loop"] = asyncio.Event(), asyncio.get_running_loop()
        app = make_app(made, key)
        return await serve_until(loops["told"], made, app, bound, going.set, compile_first=False)

    thread = threading.Thread(target=lambda: loops.update(finished=asyncio.run(run())))
    thread.start()
    assert going.wait(300)
    stop = lambda: loops["loop"].call_soon_threadsafe(loops["told"].set)  # noqa: E731
    address = address_of(bound)
    try:
        yield Running(address, made, stop, thread)
    finally:
        if thread.is_alive():
            stop()
        thread.join(300)
        assert not thread.is_alive()
    assert loops["finished"]
