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
