"""Batch sampling: the time grid, length buckets, and the loop over leaps (paper, Algorithm 1)."""

import dataclasses
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from flexmdm_jax.chips import current_platform
from flexmdm_jax.posterior import chunk_sizes, map_slots, posterior_logits
from flexmdm_jax.process import Process
from flexmdm_jax.ranges import Count, CountOrZero, PositiveOrZero, PositiveShare, Ranged
from flexmdm_jax.sampling.canvas import Canvas, insert_masks
from flexmdm_jax.sampling.insertions import InsertionRule, Poisson
from flexmdm_jax.sampling.steps import (
    CONFIDENCES,
    Draw,
    ExactRate,
    UnmaskingRule,
)
from flexmdm_jax.schedules import LAST_TIME, Linear, Schedule
from flexmdm_jax.types import (
    Denoiser,
    Encoding,
    HostOrDevice,
    RowKeys,
    Vocabulary,
    check_row_keys,
)


@dataclasses.dataclass(frozen=True)
class SamplerConfig(Ranged):
    """How to sample.

    Attributes:
      steps: Calls of the network.
      grid: Maps equal parts of [0, 1] to the times of the steps, which lie closest where it is
        flattest: at the end for sine, at the start for cosine.
      rule: Which masks each step unmasks.
      insertions: How many masks each step inserts.
      temperature: Divides the logits; 0, or next to nothing, takes the most likely token.
      top_k: Draw among the k most likely tokens only; 0 for all.
      top_p: Draw among the most likely tokens that together reach this probability.
      block_length: MDM only: fill blocks of this many slots from left to right, each over its share
        of the steps (semi-autoregressive sampling, LLaDA); 0 for no blocks. Blocks are counted in
        each row from the end of its own prompt, and the last may be shorter.
      length_buckets: Buffer lengths at which the network may run; a step uses the smallest that
        holds every row. The buffer's own length is always among them.
      trace: Keep the tokens after every step.
    """

    steps: Count = 256
    grid: Schedule = Linear()
    rule: UnmaskingRule = ExactRate()
    insertions: InsertionRule = Poisson()
    temperature: PositiveOrZero = 1.0
    top_k: CountOrZero = 0
    top_p: PositiveShare = 1.0
    block_length: CountOrZero = 0
    length_buckets: tuple[Count, ...] = ()
    trace: bool = False


@flax.struct.dataclass
class Samples:
    """Finished sequences.

    Attributes:
      tokens: Fixed and generated tokens, then END up to the end of the row.
      lengths: Tokens before END.
      truncated: True where the buffer was too small for an insertion.
      trace: Tokens after every step, or None.
    """

    tokens: Int[HostOrDevice, "b l"]
    lengths: Int[HostOrDevice, "b"]
    truncated: Bool[HostOrDevice, "b"]
    trace: Int[HostOrDevice, "n b l"] | None

    def sequences(self) -> list[Int[np.ndarray, "_"]]:
        """Returns the tokens of each row without END, of samples that are on the host."""
        return [row[:count] for row, count in zip(self.tokens, self.lengths, strict=True)]


# Slots that a CPU draws at once, at most. Noise takes it as long per slot in small chunks as in
# large ones, and its compiler about a second for every size of a chunk.
LARGEST_DRAW_ON_CPU = 28
# Below it the likeliest token is drawn all but surely, and logits may overflow when divided.
_COLDEST = 1e-6


class _Now(NamedTuple):
    """What a step needs to know, row by row."""

    t: Float[Array, "b"]
    t_next: Float[Array, "b"]
    finish: Bool[Array, "b"]
    block: Int[Array, "b"]


def _times_of_step(
    number: Int[Array, ""], steps: int, num_blocks: Int[Array, "b"], grid: Schedule
) -> _Now:
    """Returns times that run from 0 to 1 once per block of a row; its first get the odd steps."""
    size, odd = jnp.divmod(steps, num_blocks)
    # The first `odd` blocks take size + 1 steps each, the others size.
    longer = (size + 1) * odd
    block = jnp.where(number < longer, number // (size + 1), odd + (number - longer) // size)
    step = number - block * size - jnp.minimum(block, odd)
    size = size + (block < odd)
    return _Now(
        # A grid flat at its end may round to 1 too early, where no leap starts.
        t=jnp.clip(grid.at((step / size).astype(jnp.float32)), 0.0, LAST_TIME),
        t_next=grid.at(((step + 1) / size).astype(jnp.float32)),
        finish=step + 1 == size,
        block=block,
    )


def generate(
    keys: RowKeys,
    denoiser: Denoiser,
    canvas: Canvas,
    sampler: SamplerConfig,
    process: Process,
    *,
    num_groups: int = 1,
) -> Samples:
    """Returns sequences grown from the canvas by inserting masks and unmasking them (Algorithm 1).

    Each step calls the network once and applies both kinds of event to the same state; the last
    inserts nothing and unmasks every mask left. A row's result depends on its own key and content,
    not on the rows beside it. Where blocks outnumber the steps, which check_blocks() refuses, the
    last step fills all that is left.

    Args:
      keys: One key per row.
      denoiser: The network.
      canvas: Fixed tokens and open gaps (FlexMDM) or prompt and masks (MDM).
      sampler: How to sample.
      process: What the network was trained on.
      num_groups: See map_slots.

    Raises:
      ValueError: If there is not one key for each row, or blocks are asked for while the length is
        learned.
    """
    check_row_keys(keys, canvas.tokens.shape[0])
    insertion, vocabulary = process.insertion, process.vocabulary
    block_of_slot = jnp.minimum(_block_of_slot(canvas, sampler, process), sampler.steps - 1)

    def step(state: tuple[Canvas, Bool[Array, "b"]], number: Int[Array, ""]):
        canvas, truncated = state
        now = _times_of_step(number, sampler.steps, block_of_slot[:, -1] + 1, sampler.grid)
        step_keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, number), 3))
        choice_keys, draw_keys, insert_keys = jnp.moveaxis(step_keys(keys), 1, 0)
        alpha = insertion.at(now.t)[:, None]
        encoding = _encode(denoiser, canvas, alpha, sampler.length_buckets)
        masked = (canvas.tokens == vocabulary.mask) & (canvas.segment_ids > 0)
        choice = sampler.rule.choose(
            choice_keys,
            masked & (block_of_slot == now.block[:, None]),
            _drawing(draw_keys, denoiser, encoding.hidden, sampler, num_groups, process),
            process.unmasking,
            now.t,
            now.t_next,
            now.finish,
        )
        canvas = canvas.replace(tokens=jnp.where(choice.slots, choice.tokens, canvas.tokens))
        if process.inserts:
            leap = jnp.where(now.finish, 0.0, insertion.leap(now.t, now.t_next))
            inserted = sampler.insertions.draw(insert_keys, canvas, encoding.gaps, leap)
            canvas = insert_masks(canvas, inserted.counts, vocabulary)
            truncated |= inserted.overflow
        return (canvas, truncated), canvas.tokens if sampler.trace else None

    start = (canvas, jnp.zeros(canvas.tokens.shape[0], bool))
    (canvas, truncated), trace = jax.lax.scan(step, start, jnp.arange(sampler.steps))
    tokens, lengths = _cut_at_end(canvas.tokens, vocabulary)
    return Samples(tokens=tokens, lengths=lengths, truncated=truncated, trace=trace)


def _cut_at_end(
    tokens: Int[Array, "b l"], vocabulary: Vocabulary
) -> tuple[Int[Array, "b l"], Int[Array, "b"]]:
    """Returns (tokens with END from the first END on, tokens before it); the row's edge is one."""
    ends = jnp.pad(tokens == vocabulary.end, ((0, 0), (0, 1)), constant_values=True)
    lengths = jnp.argmax(ends, axis=1).astype(jnp.int32)
    after_end = jnp.arange(tokens.shape[1])[None, :] >= lengths[:, None]
    return jnp.where(after_end, vocabulary.end, tokens), lengths


def check_blocks(canvas: Canvas, sampler: SamplerConfig, process: Process) -> None:
    """Raises ValueError if blocks are asked for where lengths are learned, or outnumber the steps.

    It looks at the tokens, so jax.jit cannot trace it; generate() can be traced.
    """
    if not sampler.block_length:
        return
    num_blocks = int(jnp.max(_block_of_slot(canvas, sampler, process))) + 1
    if sampler.steps < num_blocks:
        raise ValueError(
            f"steps = {sampler.steps} cannot fill {num_blocks} blocks of {sampler.block_length} "
            "slots; use more steps or larger blocks"
        )


def _block_of_slot(canvas: Canvas, sampler: SamplerConfig, process: Process) -> Int[Array, "b l"]:
    """Returns the block each slot belongs to, counted from its row's first mask."""
    if not sampler.block_length:
        return jnp.zeros(canvas.tokens.shape, jnp.int32)
    if process.inserts:
        raise ValueError("block_length needs slots that do not move: it is for MDM only")
    first = jnp.argmax(canvas.tokens == process.vocabulary.mask, axis=1, keepdims=True)
    return (jnp.arange(canvas.tokens.shape[1])[None, :] - first) // sampler.block_length


def _encode(denoiser, canvas, alpha, length_buckets) -> Encoding:
    """Returns the network's encoding, computed in the shortest bucket that holds every row."""
    length = canvas.tokens.shape[1]
    buckets = sorted({n for n in length_buckets if n < length} | {length})

    def run(size: int):
        encoding = denoiser.encode(canvas.tokens[:, :size], canvas.segment_ids[:, :size], alpha)
        pad = ((0, 0), (0, length - size))
        return Encoding(jnp.pad(encoding.hidden, (*pad, (0, 0))), jnp.pad(encoding.gaps, pad))

    longest = jnp.max(jnp.sum(canvas.segment_ids > 0, axis=1))
    branch = jnp.searchsorted(jnp.asarray(buckets), longest)
    return jax.lax.switch(branch, [lambda size=size: run(size) for size in buckets])


def _drawing(keys, denoiser, hidden, sampler, num_groups, process):
    """Returns a function that draws tokens from f at given slots; each slot has its own noise."""
    slots = jnp.arange(hidden.shape[1])
    slot_keys = jax.vmap(lambda key: jax.vmap(lambda s: jax.random.fold_in(key, s))(slots))(keys)
    confidence = CONFIDENCES.get(sampler.rule.confidence)
    sizes = chunk_sizes(current_platform(), LARGEST_DRAW_ON_CPU)

    def draw_chunk(chunk):
        hidden, key_data = chunk
        logits = posterior_logits(denoiser, hidden, process)
        slot_keys = jax.random.wrap_key_data(key_data, impl=jax.random.key_impl(keys))
        surety = confidence(jax.nn.log_softmax(logits)) if confidence else None
        return _sample(slot_keys, logits, sampler), surety

    def draw(slots: Bool[Array, "b l"]) -> Draw:
        arrays = (hidden, jax.random.key_data(slot_keys))
        tokens, surety = map_slots(draw_chunk, slots, arrays, sizes=sizes, num_groups=num_groups)
        return Draw(tokens=tokens, confidence=surety)

    return draw


def _sample(keys, logits: Float[Array, "*slots v"], sampler) -> Int[Array, "*slots"]:
    """Returns tokens drawn exactly from softmax(logits) after temperature, top_k and top_p."""
    if sampler.temperature < _COLDEST:
        return jnp.argmax(logits, axis=-1)
    logits = logits / sampler.temperature
    if sampler.top_k:
        smallest = jax.lax.top_k(logits, min(sampler.top_k, logits.shape[-1]))[0][..., -1:]
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    if sampler.top_p < 1:
        ordered = -jnp.sort(-logits, axis=-1)
        probs = jax.nn.softmax(ordered, axis=-1)
        # A token stays while the probability of those before it is still below top_p.
        kept = jnp.cumsum(probs, axis=-1) - probs < sampler.top_p
        smallest = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    # The default mode draws 23-bit noise and loses tokens with probability below about 1e-7.
    draw = lambda key, logits: jax.random.categorical(key, logits, mode="high")  # noqa: E731
    for _ in range(keys.ndim):
        draw = jax.vmap(draw)
    return draw(keys, logits)
