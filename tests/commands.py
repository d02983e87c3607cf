"""The commands as a user runs them, and what a test expects of how they end."""

import dataclasses
import functools
import json
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile

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


def _asked(**request):
    """Returns what the server answers."""
    server = _server()
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    answer = server.stdout.readline()
    assert answer, "the server has ended; its errors stand above"
    return answer.strip()


@dataclasses.dataclass(frozen=True)
class Started:
    """A command that runs in a fork.

    Attributes:
      command: As a user would write it.
      pid: Number of the process.
      outputs: What it writes, by the name of the stream.
    """

    command: list[str]
    pid: int
    outputs: dict[str, pathlib.Path]

    def runs(self, seconds=0.0):
        """Returns whether it still does after so many seconds, at once if it does not."""
        try:
            watched = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            return not select.select([watched], [], [], seconds)[0]
        finally:
            os.close(watched)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        self.result()

    def result(self):
        """Returns what became of it, once it has ended."""
        status = int(_asked(child=self.pid))
        texts = {name: path.read_text() for name, path in self.outputs.items()}
        shutil.rmtree(self.outputs["stdout"].parent)
        return subprocess.CompletedProcess(self.command, status, **texts)


def _module(verb):
    return verb if "." in verb else f"flexmdm_jax.{verb}"


def start(verb, *arguments, cwd=ROOT):
    """Returns python -m flexmdm_jax.VERB, started; whoever starts it asks for its result."""
    module = _module(verb)
    arguments = [str(argument) for argument in arguments]
    folder = tempfile.mkdtemp()
    outputs = {name: pathlib.Path(folder, name) for name in ("stdout", "stderr")}
    for path in outputs.values():
        path.touch()
    pid = _asked(
        module=module,
        argv=["", *arguments],
        cwd=str(cwd),
        environment=environment(),
        **{name: str(path) for name, path in outputs.items()},
    )
    return Started([sys.executable, "-m", module, *arguments], int(pid), outputs)


def run(verb, *arguments, cwd=ROOT, prefix=()):
    """Returns what became of python -m flexmdm_jax.VERB.

    Args:
      verb: The command; with a dot in it, the whole name of its module.
      *arguments: Its command line.
      cwd: Folder to run it in.
      prefix: Words that stand before it; it is then started as a process of its own.
    """
    if not prefix and _settings() == _OURS:
        return start(verb, *arguments, cwd=cwd).result()
    command = [*prefix, sys.executable, "-m", _module(verb), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True)


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
    started = start(verb, *arguments)
    while not partial.exists() or partial.read_bytes().count(b"\n") < count:
        assert started.runs(0.01), started.result().stderr
    started.kill()
