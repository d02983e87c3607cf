"""The engine: rows grown from canvases, a batch at a time, each row with noise of its own."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int

from flexmdm_jax.process import Process
from flexmdm_jax.sampling import (
    Canvas,
    SamplerConfig,
    Samples,
    Settings,
    check_canvas,
    generate,
)
from flexmdm_jax.sharding import num_batch_shards, spread_rows
from flexmdm_jax.types import Denoiser, RowKeys, fold_in_rows

# Numbers of rows -> what they are grown from.
CanvasOf = Callable[[Int[np.ndarray, "b"]], Canvas]


@flax.struct.dataclass
class Completions:
    """What was grown, row by row.

    Attributes:
      tokens: Token ids of each row, fixed ones among them, without END.
      truncated: Whether the buffer was too small for it.
      cut_short: Whether calls ran out.
      calls: Calls of the network that each row took.
      states: Tokens of each row after every call, or None.
    """

    tokens: list[Int[np.ndarray, "_"]]
    truncated: Bool[np.ndarray, "n"]
    cut_short: Bool[np.ndarray, "n"]
    calls: Int[np.ndarray, "n"]
    states: Int[np.ndarray, "s n l"] | None

    @property
    def lengths(self) -> Int[np.ndarray, "n"]:
        """Returns the tokens of each row, END not counted."""
        return np.array([len(tokens) for tokens in self.tokens])

    def figures(self) -> dict[str, float]:
        """Returns the mean calls of a row, and the shares of rows truncated and cut short."""
        rows = {"calls": self.calls, "truncated": self.truncated, "cut_short": self.cut_short}
        return {name: float(np.mean(values)) for name, values in rows.items()}


@dataclasses.dataclass(frozen=True)
class Engine:
    """Samples of one kind from a model; compiled once, called with the parameters of the moment.

    Attributes:
      denoiser: Parameters -> Denoiser.
      process: What the model was trained on.
      sampler: How to sample; one without length buckets gets those of default_buckets().
      mesh: The devices that share the rows of a batch.
      rows: Rows at a time; a multiple of these devices.

    Raises:
      ValueError: If there are no rows, or the devices do not share them evenly.
    """

    denoiser: Callable[[Any], Denoiser]
    process: Process
    sampler: SamplerConfig
    mesh: Mesh
    rows: int

    def __post_init__(self):
        devices = num_batch_shards(self.mesh)
        if self.rows < 1 or self.rows % devices:
            raise ValueError(f"rows = {self.rows}; they must be a multiple of {devices} devices")

    @property
    def program(self) -> Callable[[Any, Canvas, RowKeys, Settings], Samples]:
        """Returns generate(), jitted, as a function of (parameters, canvas, keys, settings)."""
        return _program(self.denoiser, self.process, self.sampler.kinds, self.mesh)

    def batches(
        self, params: Any, canvas_of: CanvasOf, *, num: int, seed: int, first: int = 0
    ) -> Iterator[Samples]:
        """Yields num rows as NumPy arrays, a batch at a time; row i's noise is (seed, i).

        Batches are cut alike wherever the rows begin, so that a row's company stays the same.

        Args:
          params: Parameters.
          canvas_of: Returns what rows are grown from; a last batch that is not full asks for its
            first row again.
          num: Rows in all.
          seed: Decides all noise.
          first: Leave out the rows before this one.

        Raises:
          ValueError: If blocks are asked for that cannot be filled, see check_canvas().
        """
        for start in range(first // self.rows * self.rows, num, self.rows):
            numbers = np.arange(start, start + self.rows)
            canvas = canvas_of(np.where(numbers < num, numbers, start))
            check_canvas(canvas, self.sampler, self.process)
            keys = fold_in_rows(jax.random.key(seed), jnp.asarray(numbers))
            settings = self.sampler.settings(*canvas.tokens.shape)
            samples = jax.device_get(self.program(params, canvas, keys, settings))
            real = slice(max(first - start, 0), num - start)
            trace = None if samples.trace is None else samples.trace[:, real]
            rows = jax.tree.map(lambda x, real=real: x[real], samples.replace(trace=None))
            yield rows.replace(trace=trace)

    def complete(self, params: Any, canvas_of: CanvasOf, *, num: int, seed: int) -> Completions:
        """Returns the rows of batches() together.

        Raises:
          ValueError: If num is not at least 1.
        """
        if num < 1:
            raise ValueError(f"num = {num}; it must be at least 1")
        batches = list(self.batches(params, canvas_of, num=num, seed=seed))
        traced = self.sampler.trace
        return Completions(
            tokens=[tokens for batch in batches for tokens in batch.sequences()],
            truncated=np.concatenate([batch.truncated for batch in batches]),
            cut_short=np.concatenate([batch.cut_short for batch in batches]),
            calls=np.concatenate([batch.calls for batch in batches]),
            states=np.concatenate([batch.trace for batch in batches], 1) if traced else None,
        )


@functools.lru_cache(maxsize=32)
def _program(denoiser, process: Process, kinds: SamplerConfig, mesh: Mesh) -> Callable:
    """Returns Engine.program; samplers that differ in numbers alone share it."""

    def run(params, canvas: Canvas, keys: RowKeys, settings: Settings) -> Samples:
        buckets = kinds.length_buckets or default_buckets(canvas.tokens.shape[1])
        return generate(
            keys,
            denoiser(params),
            canvas,
            dataclasses.replace(kinds, length_buckets=buckets),
            process,
            settings=settings,
            num_groups=num_batch_shards(mesh),
        )

    return spread_rows(mesh, run)


def default_buckets(length: int, smallest: int = 32) -> tuple[int, ...]:
    """Returns the buffer lengths a sampler may run at: powers of two from smallest up."""
    sizes = []
    while smallest < length:
        sizes.append(smallest)
        smallest *= 2
    return (*sizes, length)
