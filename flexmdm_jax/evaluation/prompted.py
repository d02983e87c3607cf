"""Tasks with prompts: what a run makes of each of them."""

import math
from collections.abc import Callable, Iterator, Sequence

import flax.struct
import numpy as np
from jaxtyping import Bool, Int

from flexmdm_jax.sampling import Canvas, SamplerConfig
from flexmdm_jax.sampling.batches import make_generate, sample_canvases
from flexmdm_jax.sharding import spread_rows
from flexmdm_jax.training.runs import Run


@flax.struct.dataclass
class Completions:
    """What was generated for each prompt.

    Attributes:
      tokens: Token ids of each row, the prompt's among them, without END.
      truncated: Whether the buffer was too small for it.
      states: Tokens of each row after every step, or None.
    """

    tokens: list[Int[np.ndarray, "_"]]
    truncated: Bool[np.ndarray, "n"]
    states: Int[np.ndarray, "s n l"] | None


def complete(
    run: Run,
    canvas_of: Callable[[Int[np.ndarray, "b"]], Canvas],
    sampler: SamplerConfig,
    *,
    num: int,
    batch_size: int,
    seed: int,
) -> Completions:
    """Returns one completion for every prompt; prompt i's noise depends on (seed, i) alone.

    Args:
      run: A trained model.
      canvas_of: Numbers of prompts -> what they are grown from.
      sampler: How to sample.
      num: Prompts in all.
      batch_size: Prompts at a time; rounded up to a multiple of the devices that share them.
      seed: Decides all noise.
    """
    setup = run.setup
    rows = setup.round_up(min(batch_size, num))
    generate = make_generate(setup.denoiser, sampler, setup.laws, setup.num_groups)
    generate = spread_rows(setup.mesh, generate)
    canvases = (canvas_of(numbers) for numbers in _batches(num, rows))
    batches = list(sample_canvases(generate, run.params, canvases, num=num, seed=seed))
    return Completions(
        tokens=[tokens for batch in batches for tokens in batch.sequences()],
        truncated=np.concatenate([batch.truncated for batch in batches]),
        states=np.concatenate([batch.trace for batch in batches], 1) if sampler.trace else None,
    )


def _batches(num: int, rows: int) -> Iterator[Int[np.ndarray, "b"]]:
    """Yields 0..num-1 in batches of one size; the last is filled up with its first number."""
    for start in range(0, num, rows):
        numbers = np.arange(start, start + rows)
        yield np.where(numbers < num, numbers, start)


def success_interval(successes: Sequence[bool]) -> dict[str, float]:
    """Returns the share of successes with its 95% interval (Wilson, 1927)."""
    num, share, z = len(successes), float(np.mean(successes)), 1.959964
    centre = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(share * (1 - share) / num + (z / (2 * num)) ** 2)
    return {
        "success": share,
        "success_low": max(centre - half, 0.0),
        "success_high": min(centre + half, 1.0),
    }
