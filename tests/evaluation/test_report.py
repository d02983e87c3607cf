"""Tables and pictures."""

import io

import matplotlib.image
import numpy as np

from flexmdm_jax.evaluation.report import format_table, length_histograms


def test_table_is_aligned_and_marks_what_is_missing():
    rows = {"data": {"a": 1.0}, "FlexMDM": {"a": 12.3456, "b": -1.0}}
    lines = format_table(rows, {"a": "first", "b": "second figure"}).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split("  ")[-1] == "second figure"
    assert lines[1].split() == ["data", "1.000", "-"]
    assert lines[2].split() == ["FlexMDM", "12.346", "-1.000"]


def test_histograms_show_one_panel_a_model():
    lengths = {"data": [1, 5, 9], "one": [2, 3], "two": [40]}
    two = matplotlib.image.imread(io.BytesIO(length_histograms(lengths, 4)))
    one = matplotlib.image.imread(io.BytesIO(length_histograms({"data": [1], "one": [2]}, 4)))
    assert two.shape[0] == one.shape[0]
    assert two.shape[1] == 2 * one.shape[1]
    assert np.std(two) > 0.01, "not blank"
