"""How many tiles the GPU kernels visit: their loops, walked in NumPy."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from flexmdm_jax.attention import streams, tiles
from flexmdm_jax.attention.streams import BLOCK, GROUP, GROUP_WIDTH, GROUPS


@dataclasses.dataclass(frozen=True)
class Count:
    """Tiles of a pass over a batch, for one head.

    Attributes:
      tiles: Visited, of GROUP slots with as many as a tile has.
      masked: Of these, with a pair of slots that do not share a segment.
      pairs: Of slots, in visited tiles.
      loaded: Slots loaded by all blocks together.
    """

    tiles: int
    masked: int
    pairs: int
    loaded: int


def table(segment_ids: np.ndarray, tile: int) -> np.ndarray:
    """Returns streams.list_streams() of rows whose length is a multiple of BLOCK."""
    return np.asarray(streams.list_streams(tiles.segment_bounds(jnp.asarray(segment_ids)), tile))


def walk(segment_ids: np.ndarray, tile: int) -> list[tuple[int, int, int, bool]]:
    """Returns (row, first own slot, first slot that passes, without mask) of every visited tile."""
    visited = []
    works = table(segment_ids, tile)
    for row, block in np.ndindex(works.shape[:2]):
        first, _, *groups = works[row, block].tolist()
        for group in range(GROUPS):
            needed, end, whole, whole_end = groups[group * GROUP_WIDTH :][:GROUP_WIDTH]
            own = block * BLOCK + group * GROUP
            visited += [
                (row, own, first + i * tile, whole <= i < whole_end) for i in range(needed, end)
            ]
    return visited


def count_tiles(segment_ids: np.ndarray, tile: int) -> Count:
    """Returns what one kernel visits with tiles of a size."""
    visited = walk(segment_ids, tile)
    return Count(
        tiles=len(visited),
        masked=sum(not whole for *_, whole in visited),
        pairs=len(visited) * GROUP * tile,
        loaded=int(table(segment_ids, tile)[..., streams.STEPS].sum()) * tile,
    )
