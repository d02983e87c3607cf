"""The commands as a user runs them, and what a test expects of how they end."""

import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import pytest
from effort import COMPILER_FLAGS

ROOT = pathlib.Path(__file__).parents[1]


def environment():
    """Returns what a started process finds: one device, and programs compiled as in tests."""
    return os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": COMPILER_FLAGS}


def _settings():
    """Returns what JAX reads when it is imported, which a fork of a server cannot change."""
    return {name: value for name, value in environment().items() if name.startswith("JAX_")}


_OURS = _settings()


@functools.cache
def _server():
    """Returns the process that runs this worker's commands; it ends when the worker does."""
    server = subprocess.Popen(
        [sys.executable, pathlib.Path(__file__).with_name("command_server.py")],
        env=environment() | _OURS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout.readline() == "ready\n"
    return server


def run(verb, *arguments, cwd=ROOT, prefix=()):
    """Returns what became of python -m flexmdm_jax.VERB.

    Args:
      verb: The command; with a dot in it, the whole name of its module.
      *arguments: Its command line.
      cwd: Folder to run it in.
      prefix: Words that stand before it; it is then started as a process of its own.
    """
    module = verb if "." in verb else f"flexmdm_jax.{verb}"
    arguments = [str(argument) for argument in arguments]
    command = [*prefix, sys.executable, "-m", module, *arguments]
    if prefix or _settings() != _OURS:
        return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True)
    with tempfile.TemporaryDirectory() as folder:
        outputs = {name: pathlib.Path(folder, name) for name in ("stdout", "stderr")}
        for path in outputs.values():
            path.touch()
        request = {
            "module": module,
            "argv": ["", *arguments],
            "cwd": str(cwd),
            "environment": environment(),
            **{name: str(path) for name, path in outputs.items()},
        }
        server = _server()
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        status = server.stdout.readline()
        assert status, "the server has ended; its errors stand above"
        texts = {name: path.read_text() for name, path in outputs.items()}
    return subprocess.CompletedProcess(command, int(status), **texts)


def succeed(verb, *arguments, **kwargs):
    result = run(verb, *arguments, **kwargs)
    assert result.returncode == 0, result.stderr
    return result


def refuse(message, verb, *arguments, **kwargs):
    """Asserts that a command ends with one line that matches a message, and status 2."""
    result = run(verb, *arguments, **kwargs)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert re.search(message, errors[0]), errors[0]
    assert "Traceback" not in result.stderr
    assert result.returncode == 2


def config_file(path, values):
    """Returns the path after writing a config file that holds values."""
    path.write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config():\n    return ConfigDict({values!r})\n"
    )
    return path


def kill_after_lines(count, partial, verb, *arguments):
    """Starts a command and kills it once its partial results have some lines."""
    command = [sys.executable, "-m", f"flexmdm_jax.{verb}", *arguments]
    silent = subprocess.DEVNULL
    started = subprocess.Popen(command, env=environment(), stdout=silent, stderr=silent)
    while not partial.exists() or partial.read_bytes().count(b"\n") < count:
        with pytest.raises(subprocess.TimeoutExpired):
            started.wait(timeout=0.01)
    started.kill()
    started.wait()
