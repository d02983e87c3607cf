"""pack_prefix(): full rows, nothing cut, nobody overtaken."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexmdm_jax.data.batches.packing import Bins, pack_prefix


def sizes_of(law, n, rng):
    """Slots of x_t: lengths of a law, of which a uniform share is present, and END."""
    lengths = {
        "text": lambda: np.clip(np.exp(rng.normal(np.log(33), 0.9, n)), 1, 1023).astype(int),
        "pieces": lambda: rng.integers(10, 64, n),
    }[law]()
    return rng.binomial(lengths, rng.random(n)) + 1


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_rows_hold_what_they_are_given(data):
    length = data.draw(st.integers(1, 40))
    bins = Bins(data.draw(st.integers(1, 6)), length, data.draw(st.integers(1, 8)))
    enough = bins.rows * length + 1
    sizes = np.array(data.draw(st.lists(st.integers(1, length), min_size=enough, max_size=enough)))
    rows = pack_prefix(sizes, bins)
    assert len(rows) >= 1
    assert rows.min() >= 0
    assert rows.max() < bins.rows
    assert np.bincount(rows, weights=sizes[: len(rows)]).max() <= length
    assert np.bincount(rows).max() <= bins.segments
    assert set(rows) == set(range(bins.rows)), "every process has something in its rows"


@pytest.mark.parametrize(
    ("law", "bins"),
    [
        ("text", Bins(16, 256, 32)),
        ("text", Bins(16, 1024, 88)),
        ("text", Bins(16, 1408, 88)),
        ("pieces", Bins(12, 128, 16)),
        ("pieces", Bins(6, 256, 24)),
    ],
)
def test_rows_are_full_and_alike(law, bins):
    rng = np.random.default_rng(0)
    fills, spread = [], []
    for _ in range(20):
        sizes = np.minimum(sizes_of(law, 4000, rng), bins.length)
        rows = pack_prefix(sizes, bins)
        used = np.bincount(rows, weights=sizes[: len(rows)])
        fills.append(used.sum() / (bins.rows * bins.length))
        spread.append(used.max() - used.min())
    assert np.mean(fills) >= 0.97
    assert np.mean(spread) < 0.1 * bins.length


def test_a_sequence_that_finds_no_room_ends_the_step():
    """Though the shorter ones behind it would fit: nobody is overtaken."""
    assert pack_prefix(np.array([6, 6, 6, 1, 1]), Bins(2, 10, 9)).tolist() == [0, 1]
    assert pack_prefix(np.array([6, 6, 4, 4, 1]), Bins(2, 10, 9)).tolist() == [0, 1, 0, 1]
    assert pack_prefix(np.array([1, 1, 1, 1, 1]), Bins(2, 10, 2)).tolist() == [0, 1, 0, 1]
    assert pack_prefix(np.array([10, 10]), Bins(1, 10, 9)).tolist() == [0]


def test_a_row_holds_no_more_sequences_than_it_may():
    """By hand: 8 stands alone, 3 + 4 + 3 just fill the other row if it may hold three."""
    sizes = np.array([3, 4, 8, 3])
    assert len(pack_prefix(sizes, Bins(2, 10, 2))) == 3
    assert len(pack_prefix(sizes, Bins(2, 10, 3))) == 4
