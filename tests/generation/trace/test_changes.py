"""Which token is which in two frames, against traces that know where their tokens came from."""

import hypothesis
import hypothesis.strategies as st
import traces

from flexmdm_jax.generation.trace.changes import change, origins
from flexmdm_jax.generation.trace.frames import Cell, Frame

MASK = traces.MASK


def frame(call, *cells):
    """Returns a frame of (token, changed) pairs."""
    return Frame.of(call, 0.5, [Cell(token, changed, None, False) for token, changed in cells])


@hypothesis.given(seed=st.integers(0, 10**6), per_call=st.sampled_from([0.5, 1, 3, 9]))
@hypothesis.settings(max_examples=25)
def test_without_corrections_the_answer_is_the_truth(seed, per_call):
    frames, places = traces.grow(
        traces.Pieces(), traces.SHORT, "A prompt:", seed, per_call, corrections=0.0
    )
    for before, after, old, new in zip(frames, frames[1:], places, places[1:], strict=False):
        truth = tuple(old.index(place) if place in old else None for place in new)
        assert origins(before, after, MASK) == truth


@hypothesis.given(seed=st.integers(0, 10**6), per_call=st.sampled_from([1, 3, 9]))
@hypothesis.example(seed=2581, per_call=1)
@hypothesis.settings(max_examples=25)
def test_corrections_are_explained_by_few_changes(seed, per_call):
    frames, places = traces.grow(
        traces.Pieces(), traces.SHORT, "A prompt:", seed, per_call, corrections=0.7
    )
    for before, after, old, new in zip(frames, frames[1:], places, places[1:], strict=False):
        found = origins(before, after, MASK)
        kept = [i for i in found if i is not None]
        assert kept == sorted(set(kept))
        cells = before.cells(), after.cells()
        for j, i in enumerate(found):
            assert i is None or one_may_become_the_other(cells[0][i], cells[1][j])
        truth = [old.index(place) if place in old else None for place in new]
        assert changes_in(*cells, found) <= changes_in(*cells, truth)


def one_may_become_the_other(old, new):
    return old == new or (old.token == MASK) != (new.token == MASK)


def changes_in(old, new, of):
    """Returns how many tokens were inserted, removed and altered."""
    pairs = [(old[i], new[j]) for j, i in enumerate(of) if i is not None]
    altered = sum(one != other for one, other in pairs)
    return altered + len(old) + len(new) - 2 * len(pairs)


def test_the_docstrings_example():
    a, b = 5, 6
    before = frame(1, (a, 0), (MASK, 1), (MASK, 1))
    after = frame(2, (a, 0), (MASK, 2), (b, 2), (MASK, 1))
    what = change(before, after, MASK)
    assert (what.start, what.origins) == (1, [None, 0])
    assert [cell.token for cell in what.old] == [MASK]
    assert [cell.token for cell in what.new] == [MASK, b]


def test_a_mask_is_unmasked_rather_than_replaced_by_a_token():
    before = frame(1, (MASK, 1), (MASK, 1))
    assert origins(before, frame(2, (7, 2), (MASK, 1)), MASK) == (0, 1)
    assert origins(before, frame(2, (MASK, 1), (7, 2)), MASK) == (0, 1)
    assert origins(before, frame(2, (7, 2), (MASK, 2), (MASK, 1)), MASK) == (0, None, 1)


def test_a_token_is_masked_again_where_it_stands():
    before = frame(4, (5, 1), (6, 2), (7, 3))
    assert origins(before, frame(5, (5, 1), (MASK, 5), (7, 3)), MASK) == (0, 1, 2)
    # One is removed, one masked again.
    assert origins(before, frame(5, (MASK, 5), (7, 3)), MASK)[1] == 2


def test_nothing_is_taken_for_a_token_that_was_there_before():
    """A mask of an earlier call is never a new one, nor does a token become another token."""
    assert origins(frame(3, (MASK, 1)), frame(4, (MASK, 4)), MASK) == (None,)
    assert origins(frame(3, (5, 1)), frame(4, (6, 4)), MASK) == (None,)


def test_fixed_length_texts_take_no_search():
    """All of a thousand masks alike: place by place is what can be, without a table of costs."""
    size = 1000
    before = Frame.of(0, 0.0, [Cell(MASK, 0, None, False)] * size)
    cells = before.cells()
    for place in range(1, size, 7):
        cells[place] = Cell(9, 1, 0.5, False)
    assert origins(before, Frame.of(1, 0.1, cells), MASK) == tuple(range(size))
