"""Serves a trained model over HTTP: python -m flexmdm_jax.serve --workdir=runs/demo --port=8000."""

import ipaddress
import os
import pathlib
import sys
import time

import jax
from absl import flags, logging

from flexmdm_jax import cli, options
from flexmdm_jax.errors import UserError
from flexmdm_jax.generation.replay import circumstances
from flexmdm_jax.model import Model, load
from flexmdm_jax.ranges import Count, CountOrZero, Port, Seconds
from flexmdm_jax.serving.app import make_app
from flexmdm_jax.serving.server import address_of, bind, serve
from flexmdm_jax.serving.service import Limits, Served, Service

_WORKDIR = options.define_path("workdir", None, "A trained run.")
_BASE = options.define_path("base", "", "A LLaDA's base folder, if not where the run had it.")
_mesh = options.define_mesh()
_NAME = flags.DEFINE_string("name", "", "What requests call the model; unless told, the workdir's.")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Where to listen; 0.0.0.0 is everywhere.")
_PORT = options.define_number("port", 8000, "At which port; 0 for any that is free.", Port)
_KEY_FILE = options.define_path(
    "api_key_file", "", "A file with the key that clients need; or set FLEXMDM_API_KEY."
)
_BATCH = options.define_number(
    "batch_size",
    0,
    "Samples at a time while they are short, of longer ones fewer; 0: 8 on a CPU, 64 elsewhere.",
    CountOrZero,
)
_WAITING = options.define_number(
    "max_waiting", 1024, "Samples that may wait; then requests are turned away (429).", Count
)
_MAX_N = options.define_number("max_n", 128, "Samples that a request may ask for.", Count)
_BODY = options.define_number("max_body", 2**20, "Bytes of a request at most (413).", Count)
_TIMEOUT = options.define_number("timeout", 600, "Seconds that a request may take (504).", Seconds)
_SHUTDOWN = options.define_number(
    "shutdown_seconds", 30, "Seconds to finish what runs after SIGTERM.", Seconds
)
_WARM_UP = flags.DEFINE_bool(
    "warm_up", True, "Compile the usual programs before requests are taken."
)
_keep_programs = options.define_compilation_cache()
_MULTIHOST = flags.DEFINE_bool("multihost", False, "Not for serving.")


def _key() -> str:
    """Returns the key that clients need, or "" for none."""
    if not _KEY_FILE.value:
        key = os.environ.get("FLEXMDM_API_KEY")
        # As $(cat key.txt) leaves it where there is no such file: a key was meant.
        if key is not None and not key.strip():
            raise UserError("FLEXMDM_API_KEY is empty; put a key into it, or unset it for none")
        return (key or "").strip()
    place = f"--api_key_file={_KEY_FILE.value}"
    try:
        key = pathlib.Path(_KEY_FILE.value).read_text().strip()
    except OSError as error:
        raise UserError(f"{place}: {error.strerror}; name a file with a key") from None
    except UnicodeDecodeError:
        raise UserError(f"{place} is no text; write a key into it") from None
    if not key:
        raise UserError(f"{place} is empty; write a key into it")
    return key


def _batch_size() -> int:
    return _BATCH.value or (8 if jax.default_backend() == "cpu" else 64)


def _service(model: Model) -> Service:
    writer = model.writer(_batch_size())
    served = Served(
        name=_NAME.value or pathlib.Path(_WORKDIR.value).absolute().name,
        step=model.step,
        created=int(time.time()),
        circumstances=circumstances(model.digest(), writer.engine),
    )
    limits = Limits(
        max_waiting=_WAITING.value,
        max_n=_MAX_N.value,
        max_body=_BODY.value,
        timeout=_TIMEOUT.value,
        shutdown_seconds=_SHUTDOWN.value,
    )
    return Service(writer, served, limits)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main(_):
    """Runs the command."""
    logging.set_verbosity(logging.WARNING)
    if _MULTIHOST.value:
        raise UserError(
            "--multihost: a server is one process; start one on every host, and a load balancer "
            "before them"
        )
    key = _key()
    # First, as loading takes a while.
    bound = bind(_HOST.value, _PORT.value)
    _keep_programs()
    model = load(_WORKDIR.value, _BASE.value, _mesh())
    jax.set_mesh(model.setup.mesh)
    service = _service(model)
    address, name = address_of(bound), service.served.name
    if not key and not _is_local(_HOST.value):
        print("warning: without a key, whoever reaches this machine can use it", file=sys.stderr)
    if _WARM_UP.value:
        print(f"{address} answers when the usual programs are compiled", flush=True)
    ready = lambda: print(f"{address} serves {name}; Ctrl-C stops it", flush=True)  # noqa: E731
    app = make_app(service, key)
    finished = serve(service, app, bound, ready, compile_first=_WARM_UP.value)
    sys.stdout.flush()
    if not finished:
        # The device's thread is in a call that cannot be broken off.
        os._exit(0)
    if service.failure:
        cli.exit_with("the device's thread had failed; the log above says why", 1)


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir"])
    cli.run(main)
