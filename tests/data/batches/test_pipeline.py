"""Batches: every example once an epoch, in an order that only the seed decides."""

import itertools

import numpy as np
import pytest
import tiny

from flexmdm_jax.data.batches.pipeline import train_batches, validation_batches
from flexmdm_jax.data.batches.rows import arrange_for, ended, filled
from flexmdm_jax.data.storage.records import TRAIN, VALIDATION, Sequence, read_sequences, read_split
from flexmdm_jax.errors import UserError
from flexmdm_jax.process import Process


def _batches(dataset, *, batch_size=8, seed=0, make=Process.mdm, **processes):
    return train_batches(
        dataset,
        make(dataset.vocabulary),
        length=tiny.LENGTH,
        batch_size=batch_size,
        seed=seed,
        **processes,
    )


def _rows(batches, count):
    """The first rows of a stream, as (index, text); MDM's hold all of x₁."""
    rows = []
    while len(rows) < count:
        batch = next(batches)
        rows += [
            (int(index), tokens.tobytes())
            for index, tokens in zip(batch["index"][:, 0], batch["targets"], strict=True)
        ]
    return rows[:count]


def test_an_epoch_holds_every_example_once(tiny_dataset):
    size = tiny_dataset.num_sequences[TRAIN]
    stored = sorted(
        filled(sequence, tiny.LENGTH, tiny_dataset.vocabulary).tokens.tobytes()
        for sequence in read_sequences(tiny_dataset, TRAIN)
    )
    rows = _rows(_batches(tiny_dataset, batch_size=1), 2 * size)
    first, second = rows[:size], rows[size:]
    assert sorted(text for _, text in first) == stored
    assert sorted(text for _, text in second) == stored
    assert [text for _, text in first] != [text for _, text in second], "epochs differ in order"
    assert [index for index, _ in rows] == list(range(2 * size))


def test_the_seed_alone_decides_the_order(tiny_dataset):
    order = _rows(_batches(tiny_dataset), 40)
    assert order == _rows(_batches(tiny_dataset), 40)
    assert order == _rows(_batches(tiny_dataset, batch_size=4), 40)
    assert order != _rows(_batches(tiny_dataset, seed=1), 40)


def test_processes_share_every_global_batch(tiny_dataset):
    whole = [sorted(batch["index"][:, 0]) for batch in itertools.islice(_batches(tiny_dataset), 6)]
    parts = [
        itertools.islice(_batches(tiny_dataset, process_index=i, process_count=2), 6)
        for i in range(2)
    ]
    joined = [sorted([*a["index"][:, 0], *b["index"][:, 0]]) for a, b in zip(*parts, strict=True)]
    assert joined == whole


def test_the_iterator_goes_on_from_its_state(tiny_dataset):
    batches = _batches(tiny_dataset)
    for _ in range(30):
        next(batches)
    state = batches.get_state()
    expected = next(batches)
    fresh = _batches(tiny_dataset)
    fresh.set_state(state)
    for name, value in next(fresh).items():
        np.testing.assert_array_equal(value, expected[name])


def test_rows_of_both_methods(tiny_dataset):
    vocabulary = tiny_dataset.vocabulary
    end = vocabulary.end
    sequence = Sequence(np.array([7, 8, end]), np.array([True, False, False]))
    flex = ended(sequence, 5, vocabulary)
    assert flex.tokens.tolist() == [7, 8, end]
    assert flex.fixed.tolist() == [True, False, True]
    assert not sequence.fixed[2], "the stored sequence stays as it is"
    mdm = filled(sequence, 5, vocabulary)
    assert mdm.tokens.tolist() == [7, 8, end, end, end]
    assert mdm.fixed.tolist() == [True, False, False, False, False]
    assert arrange_for(Process(vocabulary)) is ended
    assert arrange_for(Process.mdm(vocabulary)) is filled


@pytest.mark.parametrize("limit", [None, 7])
def test_validation_visits_each_row_once(tiny_dataset, limit):
    stored = [tokens.tolist() for tokens in read_split(tiny_dataset, VALIDATION)][:limit]
    seen = []
    for batch, real in validation_batches(
        tiny_dataset, length=tiny.LENGTH, batch_size=4, arrange=ended, limit=limit
    ):
        assert batch.tokens.shape == (4, tiny.LENGTH)
        for row, segment_ids in zip(batch.tokens[real], batch.segment_ids[real], strict=True):
            seen.append(row[segment_ids > 0].tolist())
    assert seen == stored


def test_rows_that_are_too_short_are_an_error(tiny_dataset):
    process = Process(tiny_dataset.vocabulary)
    with pytest.raises(UserError, match=r"up to 24 slots, but config\.data\.max_length = 10"):
        train_batches(tiny_dataset, process, length=10, batch_size=2, seed=0)
