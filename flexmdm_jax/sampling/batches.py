"""Many samples: batches of independent rows, each with its own key."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from flexmdm_jax.sampling.canvas import Canvas, empty_canvas, masked_canvas, protect
from flexmdm_jax.sampling.loop import SamplerConfig, Samples, generate
from flexmdm_jax.schedules import Schedule
from flexmdm_jax.types import Denoiser, RowKeys, Vocabulary, fold_in_rows


def start_canvas(
    num: int,
    length: int,
    *,
    insertion: Schedule,
    vocabulary: Vocabulary,
    prefix: tuple[int, ...] = (),
    suffix: tuple[int, ...] = (),
) -> Canvas:
    """Returns num equal rows to sample from: nothing, a prefix, or a prefix and a suffix.

    FlexMDM writes between prefix and suffix (with no suffix, up to END), and every other gap is
    closed; MDM masks all that follows the prefix.

    Raises:
      ValueError: If MDM is given a suffix, whose place it would have to know, or nothing fits.
    """
    fixed = jnp.broadcast_to(
        jnp.asarray([*prefix, *suffix], jnp.int32), (num, len(prefix) + len(suffix))
    )
    lengths = jnp.full(num, fixed.shape[1], jnp.int32)
    if not suffix:
        return prefix_canvas(fixed, lengths, length, insertion=insertion, vocabulary=vocabulary)
    if not insertion.inserts:
        raise ValueError("MDM cannot place a suffix: its lengths are fixed; use FlexMDM")
    canvas = empty_canvas(fixed, lengths, length, vocabulary)
    canvas = protect(canvas, jnp.zeros_like(lengths), jnp.full_like(lengths, len(prefix)))
    return protect(canvas, jnp.full_like(lengths, len(prefix) + 1), lengths + 1)


def prefix_canvas(
    prefixes: Int[Array, "b p"],
    lengths: Int[Array, "b"],
    length: int,
    *,
    insertion: Schedule,
    vocabulary: Vocabulary,
) -> Canvas:
    """Returns rows to continue, each from a prefix of its own that stays as it is.

    Args:
      prefixes: Tokens, left-aligned.
      lengths: How many of them belong to each row.
      length: Slots of the buffer.
      insertion: α; decides between FlexMDM's canvas and MDM's.
      vocabulary: Ids of MASK and END.

    Raises:
      ValueError: If the prefixes leave no room.
    """
    if not insertion.inserts:
        return masked_canvas(prefixes, lengths, length, vocabulary)
    canvas = empty_canvas(prefixes, lengths, length, vocabulary)
    return protect(canvas, jnp.zeros_like(lengths), lengths)


def default_buckets(length: int, smallest: int = 32) -> tuple[int, ...]:
    """Returns the buffer lengths a sampler may run at: powers of two from smallest up."""
    sizes = []
    while smallest < length:
        sizes.append(smallest)
        smallest *= 2
    return (*sizes, length)


def make_generate(
    denoiser_of: Callable[[Any], Denoiser],
    sampler: SamplerConfig,
    laws: dict[str, Any],
    num_groups: int = 1,
) -> Callable[[Any, Canvas, RowKeys], Samples]:
    """Returns generate() jitted as a function of (parameters, canvas, keys).

    Args:
      denoiser_of: Parameters -> Denoiser.
      sampler: How to sample.
      laws: insertion, unmasking and vocabulary, see generate().
      num_groups: See map_slots.
    """

    def run(params, canvas: Canvas, keys: RowKeys) -> Samples:
        return generate(keys, denoiser_of(params), canvas, sampler, num_groups=num_groups, **laws)

    return jax.jit(run)


def sample_canvases(
    run: Callable[[Any, Canvas, RowKeys], Samples],
    params: Any,
    canvases: Iterable[Canvas],
    *,
    num: int,
    seed: int,
) -> Iterator[Samples]:
    """Yields num samples as NumPy arrays, a canvas at a time; sample i's noise is (seed, i).

    Args:
      run: From make_generate().
      params: Parameters.
      canvases: Rows to start from, in order; rows after the num-th are left out of the results.
      num: Samples in all.
      seed: Decides all noise.
    """
    start = 0
    for canvas in canvases:
        rows = canvas.tokens.shape[0]
        keys = fold_in_rows(jax.random.key(seed), jnp.arange(start, start + rows))
        samples = jax.device_get(run(params, canvas, keys))
        real = min(rows, num - start)
        yield Samples(
            tokens=samples.tokens[:real],
            lengths=samples.lengths[:real],
            truncated=samples.truncated[:real],
            trace=None if samples.trace is None else samples.trace[:, :real],
        )
        start += rows


def sample_batches(
    run: Callable[[Any, Canvas, RowKeys], Samples],
    params: Any,
    canvas: Canvas,
    *,
    num: int,
    seed: int,
) -> Iterator[Samples]:
    """Returns sample_canvases() of one canvas of equal rows, as often as num samples take."""
    batches = -(-num // canvas.tokens.shape[0])
    return sample_canvases(run, params, itertools.repeat(canvas, batches), num=num, seed=seed)
