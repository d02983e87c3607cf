"""A server under load: latency, requests and tokens a second, what was lost, and its memory.

python -m benchmarks.serving --workdir=runs/demo_text [--clients=200] [--seconds=60]

Starts a server and as many clients as asked, each with one request after another: prompts and
templates, streams and plain ones, of mixed lengths and samplers. Every answer is looked at: one
that is missing, broken or an error counts as lost. A first round, of each kind of request once, has
the programs compiled and is not counted.
"""

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
from absl import flags

from flexmdm_jax import cli, options
from flexmdm_jax.ranges import Count, CountOrZero, Seconds

_WORKDIR = options.define_path("workdir", None, "A trained run.")
_CLIENTS = options.define_number("clients", 200, "At once.", Count)
_SECONDS = options.define_number("seconds", 60, "New requests are made for.", Seconds)
_BATCH = options.define_number("batch_size", 0, "Of the server; 0 for its own.", CountOrZero)

# What clients ask for, in turn.
REQUESTS = (
    {"prompt": "The with statement", "max_tokens": 8},
    {"prompt": "A class", "n": 2, "temperature": 0.8},
    {"prompt": "", "min_length": 20, "max_length": 40},
    {"template": "If <gap> is given, <gap>."},
    {"prompt": ["Strings are", "Lists are"], "sampler": "exact"},
    {"prompt": "Return", "steps": 16},
    {"prompt": "A module", "stream": True, "max_tokens": 12},
    {"template": ["def ", None, "return"], "steps": 8, "stream": True},
)


@dataclasses.dataclass
class Figures:
    """What clients have seen."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    tokens: int = 0
    problems: collections.Counter = dataclasses.field(default_factory=collections.Counter)


@contextlib.contextmanager
def server() -> Iterator[tuple[subprocess.Popen, str]]:
    """Gives a process that serves, and its address."""
    command = [sys.executable, "-m", "flexmdm_jax.serve", f"--workdir={_WORKDIR.value}"]
    command += ["--port=0", f"--batch_size={_BATCH.value}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        lines = (re.match(r"(\S+) serves ", line) for line in process.stdout)
        found = next(filter(None, lines), None)
        if not found:
            sys.exit("the server did not start")
        yield process, found[1]
        process.terminate()
        print(f"server: status {process.wait()} after SIGTERM")
    finally:
        process.kill()


def resident(pid: int) -> float:
    """Returns the memory of a process in MB."""
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) / 1e3


async def ask(client: httpx.AsyncClient, values: dict, figures: Figures) -> None:
    """Makes a request and looks at what comes."""
    path = "/v1/infill" if "template" in values else "/v1/completions"
    started = time.monotonic()
    try:
        answer = await client.post(path, json=values)
        samples = _samples(answer, values)
    except (httpx.HTTPError, ValueError, KeyError) as error:
        figures.problems[f"{type(error).__name__}: {error}"[:100]] += 1
        return
    figures.seconds.append(time.monotonic() - started)
    figures.tokens += sum(len(sample["tokens"]) for sample in samples)


def _samples(answer: httpx.Response, values: dict) -> list[dict]:
    """Returns the samples of an answer; raises ValueError unless it is whole."""
    if answer.status_code != 200:
        raise ValueError(f"status {answer.status_code}")
    whole = answer.json() if not values.get("stream") else _last_event(answer.text)
    samples = whole["flexmdm"]["samples"]
    prompts = values["prompt"] if isinstance(values.get("prompt"), list) else [""]
    if len(samples) != values.get("n", 1) * len(prompts):
        raise ValueError("samples are missing")
    return samples


def _last_event(text: str) -> dict:
    *_, last, done, rest = text.split("\n\n")
    if (done, rest) != ("data: [DONE]", ""):
        raise ValueError("the stream broke off")
    return json.loads(last.removeprefix("data: "))


async def load(address: str, pid: int) -> None:
    """Has clients ask, and prints what they saw."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
        for values in REQUESTS:
            await ask(client, values, first := Figures())
            if first.problems:
                sys.exit(f"{values}: {first.problems}")
        figures, before, started = Figures(), resident(pid), time.monotonic()

        async def one(number: int) -> None:
            for values in itertools.islice(itertools.cycle(REQUESTS), number, None):
                if time.monotonic() > started + _SECONDS.value:
                    return
                await ask(client, values, figures)

        await asyncio.gather(*(one(number) for number in range(_CLIENTS.value)))
    elapsed = time.monotonic() - started
    cuts = statistics.quantiles(figures.seconds, n=100)
    count, lost = len(figures.seconds), sum(figures.problems.values())
    print(f"{_CLIENTS.value} clients, {elapsed:.0f} s, {count} answers, lost: {lost}")
    for problem, times in figures.problems.items():
        print(f"  {times} × {problem}")
    print(f"latency: {cuts[49]:.2f} s (p50), {cuts[98]:.2f} s (p99)")
    print(f"{count / elapsed:.1f} requests/s, {figures.tokens / elapsed:.0f} tokens/s")
    print(f"memory of the server: {before:.0f} MB before, {resident(pid):.0f} MB after")


def main(_):
    """Runs the command."""
    with server() as (process, address):
        asyncio.run(load(address, process.pid))


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir"])
    cli.run(main)
