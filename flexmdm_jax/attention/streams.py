"""The tiles that stream past each block of slots, for kernels that own blocks.

The slots that share a segment with a slot of a block are one range, since segments are contiguous.
Tiles cover it from its own start, not from a multiple of the tile. Who shares a segment is mutual:
the same table serves blocks of queries that meet keys and blocks of keys that meet queries.
"""

import jax.numpy as jnp
from jaxtyping import Array, Int

# A block is dealt out to GROUPS warpgroups, whose matrix units take GROUP rows at a time.
GROUP, GROUPS = 64, 2
BLOCK = GROUP * GROUPS
# Columns of the table. The last four are those of the first group; others follow by GROUP_WIDTH.
FIRST, STEPS, NEEDED, NEEDED_END, WHOLE, WHOLE_END = range(6)
GROUP_WIDTH = 4


def list_streams(bounds: Int[Array, "b 2 l"], tile: int) -> Int[Array, "b n w"]:
    """Returns what streams past each of the n blocks of a row, as a table of small numbers.

    FIRST is the first slot of the first tile and STEPS the number of tiles. Of these a group needs
    those from NEEDED to before NEEDED_END, each of which holds a slot that shares a segment with
    one of the group's. From WHOLE to before WHOLE_END every slot does so with every one.

    Args:
      bounds: Of the segments (tiles.segment_bounds), of rows whose length is a multiple of BLOCK.
      tile: Slots per tile; divides BLOCK.
    """
    b, _, length = bounds.shape
    start, stop = jnp.moveaxis(bounds.reshape(b, 2, length // BLOCK, GROUPS, GROUP), 1, 0)
    # Padding, whose bounds are 0, closes a row: the first slot of a group is its lowest or padding.
    begin, end = start[..., 0], stop.max(-1)
    steps = -(-(end.max(-1) - begin[..., 0]) // tile)
    # The last tile must not stick out of the row.
    first = jnp.minimum(begin[..., 0], length - steps * tile)
    before, after = begin - first[..., None], end - first[..., None]
    alone = (start.max(-1) == start.min(-1)) & (stop.min(-1) == end)
    columns = [
        jnp.where(end > 0, before // tile, 0),
        jnp.where(end > 0, -(-after // tile), 0),
        jnp.where(alone & (end > 0), -(-before // tile), 0),
        jnp.where(alone & (end > 0), after // tile, 0),
    ]
    groups = jnp.stack(columns, axis=-1).reshape(b, length // BLOCK, GROUPS * GROUP_WIDTH)
    return jnp.concatenate([first[..., None], steps[..., None], groups], axis=-1)


def visited_pairs(table: Int[Array, "b n w"], tile: int) -> Int[Array, ""]:
    """Returns how many pairs of slots lie in the tiles that the groups of all blocks need."""
    groups = table[..., NEEDED:].reshape(*table.shape[:-1], GROUPS, GROUP_WIDTH)
    return (groups[..., 1] - groups[..., 0]).sum() * GROUP * tile
