"""The plots of what a step costs: random data as its law says, and a curve for each layout."""

import dataclasses
import io

import numpy as np
import pytest
from commands import refuse
from matplotlib import image

from benchmarks import step_growth
from benchmarks.step_growth import GROWING, MEASURED, Cost, Point
from flexmdm_jax.data.storage.records import TRAIN
from flexmdm_jax.data.storage.shards import RecordReader

SMALL = Point(length=16, vocabulary=12, hidden=32)


def test_random_sequences_have_the_vocabulary_and_the_lengths_of_their_law(tmp_path):
    dataset = step_growth.dataset_of(tmp_path / "data", SMALL, np.array([1, 4, 90]))
    assert dataset.vocabulary.size == SMALL.vocabulary
    reader = RecordReader(dataset.shards[TRAIN])
    assert len(reader) == step_growth.SEQUENCES - 1
    found = [sequence.tokens for sequence in reader.read(list(range(len(reader))))]
    # An empty sequence is none; the longest are cut to a row. END is one slot of each.
    assert {len(tokens) for tokens in found} == {2, 4, 16}
    data = np.concatenate([tokens[:-1] for tokens in found])
    assert set(data) == set(range(SMALL.vocabulary - 2))


def test_padding_needs_nothing(tmp_path):
    """The same sequences in rows of 16 and of 64 slots."""
    costs = []
    for length in (16, 64):
        point = dataclasses.replace(SMALL, length=length)
        dataset = step_growth.dataset_of(tmp_path / str(length), point, np.array([4, 16]))
        costs.append(step_growth.measure(point, MEASURED[0], dataset, 1))
    assert all(cost.seconds > 0 for cost in costs)
    assert costs[1].flops == pytest.approx(costs[0].flops, rel=0.2)


def test_every_axis_is_a_field_and_begins_or_passes_at_the_base():
    assert set(GROWING) == {field.name for field in dataclasses.fields(Point)}
    for axis, values in GROWING.items():
        assert getattr(step_growth.BASE, axis) in values
        assert sorted(values) == list(values)
        for value in values:
            assert dataclasses.replace(step_growth.BASE, **{axis: value}).hidden % 64 == 0


def test_plots_are_drawn():
    costs = {
        axis: {
            layout.name: [Cost(1e-6 * value, 10.0 * value) for value in values]
            for layout in MEASURED
        }
        for axis, values in GROWING.items()
    }
    pixels = image.imread(io.BytesIO(step_growth.draw(costs)))
    # Beside black and grey there is the colour of a curve in each third of the picture.
    colourful = np.ptp(pixels[..., :3], axis=-1) > 0.3
    assert all(part.any() for part in np.array_split(colourful, len(GROWING), axis=1))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--plot=.", "--plot=. is a folder; name a file"),
        ("--plot=taken/plot.png", "cannot be written: a part of this path is a file"),
        ("--repetitions=0", "must be at least 1"),
    ],
)
def test_a_plot_that_cannot_be_written_is_one_line(tmp_path, flag, message):
    (tmp_path / "taken").touch()
    refuse(message, "benchmarks.step_growth", flag, cwd=tmp_path)
