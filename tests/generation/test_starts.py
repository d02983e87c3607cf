"""What rows grow from: given tokens, open gaps, and clean rows with all that is free taken out."""

import jax.numpy as jnp
import numpy as np
import pytest

from flexmdm_jax.data.batches.rows import batch_of
from flexmdm_jax.generation.starts import Start
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import (
    SamplerConfig,
    check_canvas,
    empty_canvas,
    masked_canvas,
    protect,
)
from flexmdm_jax.types import Vocabulary

V = Vocabulary(size=8, mask=6, end=7)
FLEXMDM, MDM = Process(V), Process.mdm(V)
FIELDS = ("tokens", "segment_ids", "closed", "fixed")


def test_a_prompt_is_what_canvases_have_of_it():
    start = Start.of([3, 4], [2], FLEXMDM, 6).canvas(6, V.end)
    fixed, counts = jnp.array([[3, 4]]), jnp.array([2])
    canvas = protect(empty_canvas(fixed, counts, 6, V), jnp.array([0]), counts)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(start, field), getattr(canvas, field))
    start = Start.of([3, 4], [2], MDM, 6).canvas(6, V.end)
    canvas = masked_canvas(fixed, counts, 6, V)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(start, field), getattr(canvas, field))


def test_an_mdm_writes_on_as_many_slots_as_it_is_told():
    start = Start.of([3, 4], [2], MDM, 6, canvas=3)
    whole = Start.of([3, 4], [2], MDM, 5)
    for field in ("tokens", "closed", "fixed"):
        np.testing.assert_array_equal(getattr(start, field), getattr(whole, field))
    canvas = start.canvas(6, V.end)
    assert canvas.tokens[0].tolist() == [3, 4, V.mask, V.mask, V.mask, V.end]
    assert canvas.segment_ids[0].tolist() == [1, 1, 1, 1, 1, 0]
    with pytest.raises(ValueError, match="2 given tokens and a canvas of 5 slots do not fit"):
        Start.of([3, 4], [2], MDM, 6, canvas=5)
    with pytest.raises(ValueError, match="a canvas is for MDM only"):
        Start.of([3, 4], [2], FLEXMDM, 6, canvas=3)


def test_padding_behind_a_canvas_takes_no_steps_of_its_blocks():
    """Of 7 masks in blocks of 3 the last has one, whatever buffer the row lies in."""
    start, pace = Start.of([3, 4], [2], MDM, 32, canvas=7), SamplerConfig(3, block_length=3).pace
    alone, padded = (np.asarray(pace.start(start.canvas(n, V.end), MDM)) for n in (9, 32))
    assert alone[0, 2:].tolist() == [0, 0, 0, 1, 1, 1, 2]
    np.testing.assert_array_equal(padded[:, :9], alone)
    assert padded.max() == 2
    check_canvas(start.canvas(32, V.end), SamplerConfig(steps=3, block_length=3), MDM)


@pytest.mark.parametrize("gaps", [[], [0], [1], [0, 1, 2], [2]])
def test_only_the_gaps_are_open(gaps):
    start = Start.of([3, 4], gaps, FLEXMDM, 6)
    assert np.flatnonzero(~start.closed).tolist() == gaps
    assert start.fixed.all()


def test_what_is_fixed_in_clean_rows_is_given():
    texts = [[1, 2, 3], [4, 5]]
    batch = batch_of(texts, 6, FLEXMDM, num_given=[2, 0])
    rows = [Start.of_clean(_in_numpy(batch), row, FLEXMDM) for row in (0, 1)]
    assert [row.tokens.tolist() for row in rows] == [[1, 2, V.end], [V.end]]
    assert [row.closed.tolist() for row in rows] == [[True, True, False], [False]]
    batch = batch_of(texts, 5, MDM, num_given=[2, 0])
    rows = [Start.of_clean(_in_numpy(batch), row, MDM) for row in (0, 1)]
    assert [row.tokens.tolist() for row in rows] == [[1, 2, 6, 6, 6], [6] * 5]


def _in_numpy(batch):
    fields = ("tokens", "fixed", "closed")
    arrays = {name: getattr(batch, name) for name in fields}
    return batch.replace(**{k: None if x is None else np.asarray(x) for k, x in arrays.items()})
