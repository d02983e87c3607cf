"""Generated tokens a second: the engine beside the same network run the plain way.

python -m benchmarks.generation [--only=plain,growth,batching]

The network is an untrained DiT whose gaps are replaced by those of a law of lengths, geometric with
a mean of 41 tokens as OpenWebText's paragraphs have them, so that texts have realistic lengths and
both ways write the same number of them. Medians; a plain step costs the same at any time, so some
in the middle are measured and counted as often as there are steps.
"""

import statistics
import sys
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.engine_rates import Rate, Size, engine_of, jobs_of, network, of_engine
from benchmarks.plain_sampler import plain_step
from flexmdm_jax import cli, options
from flexmdm_jax.generation.pools import Job
from flexmdm_jax.ranges import Count
from flexmdm_jax.sampling import Adaptive, SamplerConfig, start_canvas


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
