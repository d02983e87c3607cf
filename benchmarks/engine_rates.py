"""Tokens a second that the engine writes with an untrained network and a law of lengths.

The network's gaps are replaced by those of lengths that are geometric with a mean of 41 tokens, as
OpenWebText's paragraphs have them, so that an untrained one writes texts of realistic lengths.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax.core import meta

from flexmdm_jax.config import MeshConfig
from flexmdm_jax.generation.engine import Engine
from flexmdm_jax.generation.pools import Job
from flexmdm_jax.generation.starts import Start
from flexmdm_jax.models.dit import DiT, make_denoiser
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import SamplerConfig
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
      heads: Of each layer.
      dtype: Of activations and matrix products.
      unroll: Whether layers are compiled one by one, which a CPU runs faster, or as a loop.
    """

    vocabulary: int
    length: int
    rows: int
    mean: float = MEAN_LENGTH
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    dtype: str = "float32"
    unroll: bool = True

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
        num_heads=size.heads,
        condition_size=64,
        insertion_head=True,
        dtype=jnp.dtype(size.dtype),
        scan_unroll=size.layers if size.unroll else 1,
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
