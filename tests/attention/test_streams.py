"""What streams past a block is what its slots need, and no tile without need."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import segment_rows

from benchmarks import length_laws
from benchmarks.stream_count import count_tiles, table, walk
from flexmdm_jax.attention.streams import BLOCK, GROUP, STEPS, visited_pairs

LENGTH = 512
tile_sizes = pytest.mark.parametrize("tile", [64, 128])
batches = st.lists(st.lists(st.integers(1, 300), max_size=20), min_size=3, max_size=3)


def same_segment(segment_ids):
    """Returns which pairs of slots [rows, own, other] share a segment."""
    return (segment_ids[:, :, None] == segment_ids[:, None]) & (segment_ids > 0)[:, None]


@tile_sizes
@settings(max_examples=30)
@given(rows=batches)
def test_each_pair_of_a_segment_is_met_once_and_no_tile_without_one(tile, rows):
    segment_ids = np.asarray(segment_rows(rows, LENGTH))
    same = same_segment(segment_ids)
    visits = np.zeros(same.shape, int)
    for row, own, first, without_mask in walk(segment_ids, tile):
        part = np.s_[row, own : own + GROUP, first : first + tile]
        assert 0 <= first <= LENGTH - tile
        assert same[part].any(), "a tile is visited in vain"
        assert same[part].all() == without_mask
        visits[part] += 1
    assert visits.max() <= 1
    assert (visits[same] == 1).all()


@tile_sizes
@settings(max_examples=30)
@given(rows=batches)
def test_no_more_tiles_are_loaded_than_the_slots_a_block_meets_fill(tile, rows):
    segment_ids = np.asarray(segment_rows(rows, LENGTH))
    met = same_segment(segment_ids).reshape(3, LENGTH // BLOCK, BLOCK, LENGTH).any(2).sum(-1)
    np.testing.assert_array_equal(table(segment_ids, tile)[..., STEPS], -(-met // tile))


@tile_sizes
@settings(max_examples=10)
@given(rows=batches)
def test_visited_pairs_are_those_of_the_walk(tile, rows):
    segment_ids = np.asarray(segment_rows(rows, LENGTH))
    counted = int(visited_pairs(jnp.asarray(table(segment_ids, tile)), tile))
    assert counted == len(walk(segment_ids, tile)) * GROUP * tile


def test_work_follows_the_segments():
    full = count_tiles(np.ones((2, 1024), int), 128)
    assert (full.masked, full.pairs) == (0, 2 * 1024**2)
    # A group of 64 meets itself and what two segments of at most 36 slots leave outside of it,
    # which lies in at most three tiles of 64.
    short = count_tiles(length_laws.laws(2, 1024)["packed, segments of 22"], 64)
    assert short.pairs <= 2 * 1024 * 3 * 64
