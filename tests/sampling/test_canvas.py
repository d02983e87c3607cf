"""The canvas behaves as a list into which masks are inserted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexmdm_jax.sampling import (
    Canvas,
    empty_canvas,
    insert_masks,
    masked_canvas,
    protect,
    remove,
)
from flexmdm_jax.types import Vocabulary

V = Vocabulary(size=9, mask=2, end=5)
LENGTH = 9


def test_empty_canvas_holds_the_fixed_tokens_and_end():
    fixed = jnp.asarray([[7, 8, 0], [6, 0, 0], [0, 0, 0]])
    canvas = empty_canvas(fixed, jnp.asarray([3, 1, 0]), 6, V)
    e = V.end
    np.testing.assert_array_equal(
        canvas.tokens, [[7, 8, 0, e, e, e], [6, e, e, e, e, e], [e, e, e, e, e, e]]
    )
    np.testing.assert_array_equal(
        canvas.segment_ids, [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
    )
    assert not canvas.closed.any()


def test_masked_canvas_holds_the_prompt_and_masks():
    canvas = masked_canvas(jnp.asarray([[7, 8], [6, 0]]), jnp.asarray([2, 1]), 4, V)
    m = V.mask
    np.testing.assert_array_equal(canvas.tokens, [[7, 8, m, m], [6, m, m, m]])
    assert (canvas.segment_ids == 1).all()
    assert canvas.closed.all()


@pytest.mark.parametrize("make", [empty_canvas, masked_canvas])
def test_a_canvas_without_room_is_refused(make):
    with pytest.raises(ValueError, match="4 fixed tokens leave no room in a canvas of 4 slots"):
        make(jnp.zeros((1, 4), jnp.int32), jnp.asarray([4]), 4, V)


def test_protect_closes_the_gaps_of_a_range():
    canvas = empty_canvas(jnp.zeros((2, 4), jnp.int32), jnp.asarray([4, 4]), 6, V)
    canvas = protect(canvas, jnp.asarray([0, 1]), jnp.asarray([2, 1]))
    canvas = protect(canvas, jnp.asarray([3, 4]), jnp.asarray([4, 5]))
    closed = np.zeros((2, 6), bool)
    closed[0, [0, 1, 3]] = True
    closed[1, 4] = True
    np.testing.assert_array_equal(canvas.closed, closed)


@st.composite
def rows_and_counts(draw):
    """A sequence with its closed gaps, and insertions that fit."""
    n = draw(st.integers(0, LENGTH - 1))
    tokens = draw(st.lists(st.integers(0, V.size - 1).filter(lambda v: v != V.end), min_size=n))
    tokens = [*tokens[:n], V.end]
    closed = draw(st.lists(st.booleans(), min_size=len(tokens), max_size=len(tokens)))
    room, counts = LENGTH - len(tokens), []
    for _ in tokens:
        counts.append(draw(st.integers(0, room)))
        room -= counts[-1]
    return tokens, closed, counts


@settings(max_examples=60)
@given(st.lists(rows_and_counts(), min_size=3, max_size=3))
def test_insert_masks_equals_insertion_into_lists(rows):
    def fill(which, value, dtype):
        return jnp.asarray(
            [[*row[which], *[value] * (LENGTH - len(row[which]))] for row in rows], dtype
        )

    real = jnp.asarray([[i < len(row[0]) for i in range(LENGTH)] for row in rows], jnp.int32)
    closed = fill(1, False, bool)
    # What is fixed moves like what is closed.
    canvas = Canvas(fill(0, V.end, jnp.int32), real, closed=closed, fixed=~closed & (real > 0))
    out = _insert(canvas, fill(2, 0, jnp.int32))
    for row, (tokens, closed, counts) in enumerate(rows):
        expected, expected_closed = [], []
        for token, shut, count in zip(tokens, closed, counts, strict=True):
            expected += [V.mask] * count + [token]
            expected_closed += [False] * count + [shut]
        rest = LENGTH - len(expected)
        np.testing.assert_array_equal(out.tokens[row], expected + [V.end] * rest)
        np.testing.assert_array_equal(out.segment_ids[row], [1] * len(expected) + [0] * rest)
        np.testing.assert_array_equal(out.closed[row], expected_closed + [False] * rest)
        old = [out.fixed[row, i] for i in np.flatnonzero(_places(counts, LENGTH))]
        assert old == [not shut for shut in closed]
        assert int(out.fixed[row].sum()) == closed.count(False)


def _places(counts, length):
    """Returns where the slots of a row go that had so many masks inserted before each."""
    places = np.zeros(length, bool)
    places[np.arange(len(counts)) + np.cumsum(counts)] = True
    return places


@settings(max_examples=60)
@given(st.data())
def test_remove_equals_removal_from_lists(data):
    tokens, closed, gone = [], [], []
    for _ in range(data.draw(st.integers(0, LENGTH - 1))):
        tokens.append(data.draw(st.integers(0, V.size - 1).filter(lambda v: v != V.end)))
        closed.append(data.draw(st.booleans()))
        gone.append(data.draw(st.booleans()))
    tokens, closed, gone = [*tokens, V.end], [*closed, True], [*gone, False]
    pad = lambda x, value: jnp.asarray([[*x, *[value] * (LENGTH - len(x))]])  # noqa: E731
    real = pad([1] * len(tokens), 0)
    canvas = Canvas(pad(tokens, V.end), real, closed=pad(closed, False), fixed=~pad(gone, True))
    out = jax.jit(lambda canvas, gone: remove(canvas, gone, V))(canvas, pad(gone, False))
    kept = [i for i, x in enumerate(gone) if not x]
    rest = LENGTH - len(kept)
    np.testing.assert_array_equal(out.tokens[0], [tokens[i] for i in kept] + [V.end] * rest)
    np.testing.assert_array_equal(out.segment_ids[0], [1] * len(kept) + [0] * rest)
    np.testing.assert_array_equal(out.closed[0], [closed[i] for i in kept] + [False] * rest)
    np.testing.assert_array_equal(out.fixed[0], [True] * len(kept) + [False] * rest)


@jax.jit
def _insert(canvas, counts):
    return insert_masks(canvas, counts, V)
