"""The list of tiles covers what attention needs, once, and little more."""

import math

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import segment_rows

from flexmdm_jax.attention import tiles

LENGTH, BLOCK_Q, BLOCK_K = 512, 128, 256
row_of_segments = st.lists(st.integers(1, 300), max_size=20)
batches = st.lists(row_of_segments, min_size=3, max_size=3)


@jax.jit
def walk(segment_ids):
    bounds = tiles.segment_bounds(segment_ids)
    return tiles.list_tiles(bounds, BLOCK_Q, BLOCK_K, flush=True)


def steps(segment_ids):
    """Returns [(row, query block, first key, flags, flush row, flush block)] of the used steps."""
    work = walk(segment_ids)
    mask = (1 << tiles.ROW_SHIFT) - 1
    count = int(work.count)
    block, span, flush = (np.asarray(x)[:count] for x in (work.block, work.span, work.flush))
    flags = span & ((1 << tiles.FLAG_BITS) - 1)
    first = (span >> tiles.FLAG_BITS) * tiles.START_ALIGNMENT
    columns = (block >> tiles.ROW_SHIFT, block & mask, first, flags)
    return list(zip(*columns, flush >> tiles.ROW_SHIFT, flush & mask, strict=True))


@settings(max_examples=50)
@given(rows=batches)
def test_every_pair_of_a_segment_lies_in_exactly_one_tile(rows):
    segment_ids = np.asarray(segment_rows(rows, LENGTH))
    visits = np.zeros((3, LENGTH, LENGTH), int)
    for row, block, first, flags, *_ in steps(segment_ids):
        if flags & (tiles.MASKED | tiles.UNMASKED):
            assert 0 <= first <= LENGTH - BLOCK_K
            queries = slice(block * BLOCK_Q, (block + 1) * BLOCK_Q)
            visits[row, queries, first : first + BLOCK_K] += 1
    same = (segment_ids[:, :, None] == segment_ids[:, None]) & (segment_ids > 0)[:, None]
    assert visits.max() <= 1
    assert (visits[same] == 1).all()


@settings(max_examples=50)
@given(rows=batches)
def test_only_tiles_of_a_single_segment_go_unmasked(rows):
    segment_ids = np.asarray(segment_rows(rows, LENGTH))
    for row, block, first, flags, *_ in steps(segment_ids):
        queries = segment_ids[row, block * BLOCK_Q : (block + 1) * BLOCK_Q]
        keys = segment_ids[row, first : first + BLOCK_K]
        seen = set(queries) | set(keys)
        if flags & tiles.UNMASKED:
            assert len(seen) == 1
            assert 0 not in seen


@settings(max_examples=50)
@given(rows=batches)
def test_work_follows_the_segments(rows):
    segment_ids = np.asarray(segment_rows(rows, LENGTH))
    allowed = 2  # the first block is visited and flushed even if it is padding
    for row in segment_ids:
        for block in row.reshape(-1, BLOCK_Q):
            if block.any():
                keys = np.flatnonzero(np.isin(row, block[block > 0]))
                span = keys[-1] + 1 - keys[0] // tiles.START_ALIGNMENT * tiles.START_ALIGNMENT
                allowed += math.ceil(span / BLOCK_K) + 1
    assert len(steps(segment_ids)) <= allowed


@settings(max_examples=50)
@given(rows=batches)
def test_each_block_is_finished_and_flushed_once(rows):
    segment_ids = np.asarray(segment_rows(rows, LENGTH))
    finished, flushed = [], []
    last_row = 0
    for row, block, _, flags, flush_row, flush_block in steps(segment_ids):
        assert row >= last_row, "rows are walked one after another"
        last_row = row
        assert flush_row == row, "gradients of another row must not be written back"
        finished += [(row, block)] * bool(flags & tiles.LAST)
        flushed += [(row, flush_block)] * bool(flags & tiles.FLUSH)
    used = segment_ids.reshape(3, -1, BLOCK_Q).any(-1)
    used[0, 0] = True
    assert finished == [tuple(at) for at in np.argwhere(used)]
    # Gradients of keys are written in blocks of another size.
    used = used.reshape(3, -1, BLOCK_K // BLOCK_Q).any(-1)
    assert flushed == [tuple(at) for at in np.argwhere(used)]


def test_the_unused_end_of_the_list_moves_nothing():
    work = walk(segment_rows([[100], [], [40, 30]], LENGTH))
    count = int(work.count)
    for name in ("block", "flush"):
        values = np.asarray(getattr(work, name))
        assert (values[count:] == values[count - 1]).all(), name
    span = np.asarray(work.span)
    assert (span[count:] & ((1 << tiles.FLAG_BITS) - 1) == 0).all()
    assert (span[count:] >> tiles.FLAG_BITS == span[count - 1] >> tiles.FLAG_BITS).all()
