"""The tiles of the score matrix that hold a pair of slots of one segment, as a flat list.

A kernel that walks this list spends no step on padding or on pairs of different segments.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

# What a grid step does: any sum of these, 0 = nothing (the unused end of the list).
UNMASKED, MASKED, LAST, FLUSH = 1, 2, 4, 8
FLAG_BITS = 4
ROW_SHIFT = 16
# Key tiles start at multiples of this many slots: one bfloat16 vector register is 16 rows high.
START_ALIGNMENT = 16


def row_and_block(packed):
    """Returns the two numbers of an entry of TileList.block or TileList.flush."""
    return packed >> ROW_SHIFT, packed & ((1 << ROW_SHIFT) - 1)


def key_and_flags(span):
    """Returns (first key slot, flags) of an entry of TileList.span."""
    return (span >> FLAG_BITS) * START_ALIGNMENT, span & ((1 << FLAG_BITS) - 1)


@flax.struct.dataclass
class TileList:
    """Grid steps in the order they are walked; entries past count repeat the last, doing nothing.

    Attributes:
      block: row << ROW_SHIFT | query block.
      span: (first key slot / START_ALIGNMENT) << FLAG_BITS | flags.
      flush: row << ROW_SHIFT | block of finished key gradients, of this step or the next to flush.
      count: Steps in use, at least one.
    """

    block: Int[Array, "n"]
    span: Int[Array, "n"]
    flush: Int[Array, "n"]
    count: Int[Array, ""]


def segment_bounds(segment_ids: Int[Array, "b l"]) -> Int[Array, "b 2 l"]:
    """Returns first and one-past-last slot of every slot's segment; both 0 at padding."""
    length = segment_ids.shape[1]
    position = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), segment_ids.shape)
    changes = segment_ids[:, 1:] != segment_ids[:, :-1]
    edge = jnp.ones_like(changes, shape=(segment_ids.shape[0], 1))
    opens = jnp.concatenate([edge, changes], axis=1)
    closes = jnp.concatenate([changes, edge], axis=1)
    start = jax.lax.cummax(jnp.where(opens, position, 0), axis=1)
    stop = jax.lax.cummin(jnp.where(closes, position + 1, length), axis=1, reverse=True)
    real = segment_ids > 0
    return jnp.where(real[:, None], jnp.stack([start, stop], axis=1), 0)


def list_tiles(
    bounds: Int[Array, "b 2 l"], block_q: int, block_k: int, *, flush: bool = False
) -> TileList:
    """Returns the tiles each query block needs, row after row.

    The keys a query block needs are one range, since segments are contiguous. Tiles of block_k
    keys cover it from its own start, not from a multiple of block_k.

    Args:
      bounds: Of the segments of a batch whose length is a multiple of block_k, itself a multiple
        of block_q.
      block_q: Query slots per tile.
      block_k: Key slots per tile.
      flush: After the tiles of each row, add one step per block_k real key slots.
    """
    b, _, length = bounds.shape
    num_blocks = length // block_q
    start, stop = jnp.moveaxis(bounds.reshape(b, 2, num_blocks, block_q), 1, 0)
    begin, end = start[..., 0], stop.max(-1)
    # Every query of the block belongs to one segment.
    uniform = (start.max(-1) == start.min(-1)) & (stop.min(-1) == end) & (end > 0)
    aligned = begin // START_ALIGNMENT * START_ALIGNMENT
    num_tiles = -(-(end - aligned) // block_k)
    # A kernel cannot run zero steps: the first block is visited even if it is padding.
    num_tiles = num_tiles.at[0, 0].max(1)
    # The last tile must not stick out of the row, nor overlap another tile.
    first_key = jnp.minimum(aligned, length - num_tiles * block_k)
    row, block = jnp.divmod(jnp.arange(b * num_blocks, dtype=jnp.int32), num_blocks)
    table = {
        "row": row.reshape(b, num_blocks),
        "block": block.reshape(b, num_blocks),
        "first_key": first_key,
        "steps": num_tiles,
        "begin": begin,
        "end": jnp.where(uniform, end, 0),
        "flush": jnp.zeros_like(num_tiles),
    }
    if flush:
        table = _with_flush(table, block_q, block_k)
    flat = {name: x.reshape(-1) for name, x in table.items()}
    return _flatten(flat, max_steps(b, length, block_q, block_k, flush=flush), block_k)


def max_steps(rows: int, length: int, block_q: int, block_k: int, *, flush: bool) -> int:
    """Returns the size of the list: what a batch of full rows needs."""
    return rows * (length // block_q + flush) * (length // block_k)


def _with_flush(table, block_q, block_k):
    """Appends to each row an entry that flushes and otherwise stays at the row's last tile."""
    used = table["steps"] > 0
    num_used = jnp.maximum(used.sum(-1, keepdims=True), 1)
    last = num_used - 1
    take = lambda name: jnp.take_along_axis(table[name], last, axis=1)  # noqa: E731
    entry = {name: take(name) for name in table}
    entry["first_key"] += (entry["steps"] - 1) * block_k
    num_flushed = -(-num_used * block_q // block_k)
    entry["steps"] = jnp.where(used.any(-1, keepdims=True), num_flushed, 0)
    entry["flush"] = jnp.ones_like(last)
    return {name: jnp.concatenate([table[name], entry[name]], axis=1) for name in table}


def _flatten(table, size, block_k) -> TileList:
    """Repeats every entry as often as it has steps."""
    steps = table["steps"]
    count = steps.sum(dtype=jnp.int32)
    index = jnp.minimum(jnp.arange(size, dtype=jnp.int32), count - 1)
    entry = jnp.repeat(jnp.arange(steps.size, dtype=jnp.int32), steps, total_repeat_length=size)[
        index
    ]
    step = index - (jnp.cumsum(steps) - steps)[entry]
    of = {name: values[entry] for name, values in table.items()}
    flushes = of["flush"] == 1
    first_key = of["first_key"] + jnp.where(flushes, 0, step * block_k)
    whole = (of["begin"] <= first_key) & (first_key + block_k <= of["end"])
    flags = jnp.where(whole, UNMASKED, MASKED)
    flags += LAST * (step == of["steps"] - 1)
    flags = jnp.where(flushes, FLUSH, flags)
    flags = jnp.where(jnp.arange(size) < count, flags, 0)
    return TileList(
        block=of["row"] << ROW_SHIFT | of["block"],
        span=(first_key // START_ALIGNMENT) << FLAG_BITS | flags,
        flush=of["row"] << ROW_SHIFT | jnp.where(flushes, step, 0),
        count=count,
    )
