"""Generated tokens a second: the engine beside the same network run the plain way.

python -m benchmarks.generation [--only=plain,growth,batching]

The network is an untrained DiT whose gaps are replaced by those of a law of lengths, geometric with
a mean of 41 tokens as OpenWebText's paragraphs have them, so that texts have realistic lengths and
both ways write the same number of them. Medians; a plain step costs the same at any time, so some
in the middle are measured and counted as often as there are steps.
"""

import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax.core import meta

from benchmarks.plain_sampler import plain_step
from flexmdm_jax import cli, options
from flexmdm_jax.config import MeshConfig
from flexmdm_jax.generation.engine import Engine
from flexmdm_jax.generation.pools import Job
from flexmdm_jax.generation.starts import Start
from flexmdm_jax.models.dit import DiT, make_denoiser
from flexmdm_jax.process import Process
from flexmdm_jax.ranges import Count
from flexmdm_jax.sampling import Adaptive, SamplerConfig, start_canvas
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.types import Denoiser, Vocabulary

MEAN_LENGTH = 41.0


@dataclasses.dataclass(frozen=True)
class Size:
    """A network and its buffers.

    Attributes:
      vocabulary: Ids.
      length: Slots of a row.
      rows: At a time.
      mean: Tokens of a text on average.
      hidden: Features.
      layers: Of it.
    """

    vocabulary: int
    length: int
    rows: int
    mean: float = MEAN_LENGTH
    hidden: int = 256
    layers: int = 4

    @property
    def process(self) -> Process:
        """Returns the process."""
        return Process(Vocabulary(self.vocabulary, self.vocabulary - 2, self.vocabulary - 1))


@functools.cache
def network(size: Size) -> tuple[Callable[[dict], Denoiser], dict]:
    """Returns (parameters -> denoiser, parameters)."""
    model = DiT(
        vocabulary_size=size.vocabulary,
        max_length=size.length,
        hidden_size=size.hidden,
        num_layers=size.layers,
        num_heads=4,
        condition_size=64,
        insertion_head=True,
        dtype=jnp.float32,
        scan_unroll=size.layers,
    )
    slots = jnp.zeros((1, 8), jnp.int32)
    made = model.init(jax.random.key(0), slots, slots + 1, jnp.zeros((1, 1)))
    params = meta.unbox(made["params"])

    def denoiser(params) -> Denoiser:
        whole = make_denoiser(model, params)

        def encode(tokens, segment_ids, alpha):
            out = whole.encode(tokens, segment_ids, alpha)
            return out.replace(gaps=_gaps(segment_ids, alpha, size.mean))

        return dataclasses.replace(whole, encode=encode)

    return denoiser, params


def _gaps(segment_ids, alpha, mean: float):
    """Returns the exact gaps of texts whose lengths are geometric, all of them alike.

    Such a length is Poisson with a rate that is exponential, of mean m. Of k tokens present at
    alpha the rate is Gamma(1 + k) over 1 / m + alpha, and missing are (1 - alpha) times as many.
    """
    slots = jnp.sum(segment_ids > 0, axis=1, keepdims=True)
    missing = slots * (1 - alpha) / (1 / mean + alpha)
    return jnp.where(segment_ids > 0, missing / slots, 0.0)


def engine_of(size: Size) -> tuple[Engine, dict]:
    """Returns (engine, parameters)."""
    denoiser, params = network(size)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return Engine(denoiser, size.process, mesh, size.rows, size.length), params


def jobs_of(size: Size, samplers: list[SamplerConfig], num: int, seed: int) -> list[Job]:
    """Returns jobs that begin with nothing, their samplers in turn."""
    start = Start.of([], [0], size.process, size.length)
    return [Job(start, samplers[n % len(samplers)], seed, n) for n in range(num)]


@dataclasses.dataclass(frozen=True)
class Rate:
    """Generated tokens, and what they took.

    Attributes:
      tokens: Of all texts.
      seconds: In all.
      calls: Of the network, each text on average.
    """

    tokens: int
    seconds: float
    calls: float

    @property
    def per_second(self) -> float:
        """Returns tokens a second."""
        return self.tokens / self.seconds


def of_engine(size: Size, sampler: SamplerConfig, num: int, repetitions: int) -> Rate:
    """Returns the median rate of the engine; compiling does not count."""
    engine, params = engine_of(size)
    engine.complete(params, jobs_of(size, [sampler], num, 0))
    rates = []
    for seed in range(1, repetitions + 1):
        started = time.perf_counter()
        rows = engine.complete(params, jobs_of(size, [sampler], num, seed))
        seconds = time.perf_counter() - started
        calls = statistics.mean(row.calls for row in rows)
        rates.append(Rate(sum(row.inserted for row in rows), seconds, calls))
    return sorted(rates, key=lambda rate: rate.per_second)[len(rates) // 2]


def of_plain(size: Size, steps: int, repetitions: int) -> Rate:
    """Returns the median rate of the plain way, rows having the mean length."""
    denoiser, params = network(size)
    process = size.process
    run = jax.jit(
        lambda params, key, canvas, number: plain_step(
            key, denoiser(params), canvas, process, number, jnp.int32(steps)
        )
    )
    seconds, canvas = [], start_canvas(size.rows, size.length, process)
    for number in range(repetitions + 1):
        key = jax.random.fold_in(jax.random.key(0), number)
        started = time.perf_counter()
        canvas = jax.block_until_ready(run(params, key, canvas, jnp.int32(steps // 2 + number)))
        # The first has to compile.
        if number:
            seconds.append(time.perf_counter() - started)
    mean = _mean_length(size)
    return Rate(round(size.rows * mean), statistics.median(seconds) * steps, steps)


def _mean_length(size: Size) -> float:
    """Returns the mean of a geometric length that the buffer cuts off."""
    lengths = np.minimum(
        np.random.default_rng(0).geometric(1 / (1 + size.mean), 10**6) - 1, size.length
    )
    return float(lengths.mean())


def beside_plain(repetitions: int) -> Iterator[str]:
    """Yields the table of the engine beside the plain way."""
    yield "| vocabulary | slots | rows | | calls | tokens/s | × plain |"
    yield "| ---: | ---: | ---: | --- | ---: | ---: | ---: |"
    for size, num in ((Size(50_259, 1024, 2), 8), (Size(1_024, 256, 16), 64)):
        plain = of_plain(size, 64, repetitions)
        named = {
            "plain, 64 equal steps": plain,
            "64 steps": of_engine(size, SamplerConfig(steps=64), num, repetitions),
            "adaptive (default)": of_engine(size, SamplerConfig(), num, repetitions),
        }
        for name, rate in named.items():
            shape = f"{size.vocabulary:,} | {size.length:,} | {size.rows}"
            times = rate.per_second / plain.per_second
            yield f"| {shape} | {name} | {rate.calls:.1f} | {rate.per_second:,.3g} | {times:,.1f} |"


GROWING = {
    "mean length": [Size(1_024, 1024, 16, mean=mean) for mean in (10.0, 41.0, 160.0)],
    "vocabulary": [Size(size, 256, 16) for size in (256, 1_024, 8_192, 50_259)],
    "rows": [Size(1_024, 256, rows) for rows in (1, 4, 16, 64)],
}


def growth(repetitions: int) -> Iterator[str]:
    """Yields how cost grows with the length of texts, the vocabulary and rows at a time."""
    yield "| growing | | tokens/s | ms a token | calls |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for axis, sizes in GROWING.items():
        for size in sizes:
            # A row each, and so many texts that about a thousand tokens are written.
            num = max(size.rows, round(1_000 / size.mean))
            rate = of_engine(size, SamplerConfig(), num, repetitions)
            value = {"mean length": size.mean, "vocabulary": size.vocabulary, "rows": size.rows}
            yield (
                f"| {axis} | {value[axis]:,.0f} | {rate.per_second:,.1f} | "
                f"{1e3 / rate.per_second:.2f} | {rate.calls:.1f} |"
            )


MIXED = [
    SamplerConfig(),
    SamplerConfig(events_per_step=0.5),
    SamplerConfig(steps=32),
    SamplerConfig(temperature=0.7, max_length=20),
    SamplerConfig(rule=Adaptive()),
]


def batching(repetitions: int) -> Iterator[str]:
    """Yields 500 jobs of mixed lengths and samplers, continuously and batch by batch."""
    size, num = Size(1_024, 256, 16, mean=30.0, hidden=128, layers=2), 500
    engine, params = engine_of(size)

    def together(jobs: list[Job]) -> None:
        engine.complete(params, jobs)

    def by_batch(jobs: list[Job]) -> None:
        of_kind: dict[SamplerConfig, list[Job]] = {}
        for job in jobs:
            of_kind.setdefault(job.sampler.kinds, []).append(job)
        for own in of_kind.values():
            for start in range(0, len(own), size.rows):
                engine.complete(params, own[start : start + size.rows])

    together(jobs_of(size, MIXED, num, 0))
    times: dict[str, list[float]] = {}
    for seed in range(1, repetitions + 1):
        for name, run in (("continuous", together), ("batch by batch", by_batch)):
            started = time.perf_counter()
            run(jobs_of(size, MIXED, num, seed))
            times.setdefault(name, []).append(time.perf_counter() - started)
            print(f"{name}, {seed}: {times[name][-1]:.1f} s", file=sys.stderr)
    yield f"| {num} requests, five samplers | seconds | × |"
    yield "| --- | ---: | ---: |"
    slowest = statistics.median(times["batch by batch"])
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        yield f"| {name} | {middle:.1f} | {slowest / middle:.2f} |"


SECTIONS = {"plain": beside_plain, "growth": growth, "batching": batching}
_ONLY = flags.DEFINE_list("only", list(SECTIONS), f"Of {', '.join(SECTIONS)}.")
_REPETITIONS = options.define_number("repetitions", 5, "Medians are over so many.", Count)


def main(_):
    """Prints the tables."""
    for name in _ONLY.value:
        for line in SECTIONS[name](_REPETITIONS.value):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    cli.run(main)
