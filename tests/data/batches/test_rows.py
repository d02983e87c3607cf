"""batch_of(): what stands in its rows, and what is no data."""

import numpy as np
import pytest

from flexmdm_jax.data.batches.rows import batch_of
from flexmdm_jax.process import Process
from flexmdm_jax.types import Vocabulary

FLEXMDM = Process(Vocabulary(size=12, mask=10, end=11))
MDM = Process.mdm(FLEXMDM.vocabulary)


def test_rows_of_both_methods():
    flex, mdm = (batch_of([[1, 2], []], length=4, process=process) for process in (FLEXMDM, MDM))
    for batch in (flex, mdm):
        assert batch.tokens.tolist() == [[1, 2, 11, 11], [11, 11, 11, 11]]
        assert batch.index.tolist() == [0, 1]
    assert flex.segment_ids.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert flex.fixed.tolist() == [[False, False, True, False], [True, False, False, False]]
    assert mdm.segment_ids.all()
    assert not mdm.fixed.any()


def test_prompts_are_fixed_and_their_gaps_closed():
    sequences, given = [[1, 2], [3], [4, 5]], [1, 0, 2]
    flex, mdm = (batch_of(sequences, 4, x, num_given=given) for x in (FLEXMDM, MDM))
    first = [[True, False, False], [False, False, False], [True, True, False]]
    assert flex.closed[:, :3].tolist() == mdm.fixed[:, :3].tolist() == first
    assert not flex.closed[:, 3].any()
    assert not mdm.fixed[:, 3].any()
    assert mdm.closed is None
    ends = flex.tokens == FLEXMDM.vocabulary.end
    np.testing.assert_array_equal(flex.fixed, flex.closed | (ends & (flex.segment_ids > 0)))


@pytest.mark.parametrize("count", [-1, 3])
def test_no_more_is_given_than_there_is(count):
    with pytest.raises(ValueError, match=f"num_given = {count} for sequence 1, which has 2 tokens"):
        batch_of([[1], [2, 3]], length=4, process=FLEXMDM, num_given=[1, count])
    with pytest.raises(ValueError, match="num_given has 1 numbers for 2 sequences"):
        batch_of([[1], [2, 3]], length=4, process=FLEXMDM, num_given=[1])


@pytest.mark.parametrize("process", [FLEXMDM, MDM])
@pytest.mark.parametrize("token", [12, -1, 10, 11, 2**40])
def test_what_is_no_data_is_named(process, token):
    with pytest.raises(ValueError, match=rf"sequence 1 holds {token}; data are ids below 12 that"):
        batch_of([[1], [2, token]], length=8, process=process)


def test_lengths_are_checked():
    assert batch_of([np.arange(3)], length=4, process=FLEXMDM).tokens.shape == (1, 4)
    with pytest.raises(ValueError, match="sequence 0 takes 5 slots with END, more than length = 4"):
        batch_of([[1, 2, 3, 4]], length=4, process=FLEXMDM)
    with pytest.raises(ValueError, match="at least one sequence"):
        batch_of([], length=4, process=FLEXMDM)
