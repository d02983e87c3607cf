"""Runs compared on the same examples."""

import numpy as np
import pytest

from flexmdm_jax.evaluation.comparison import Examples, Run, differences, labels_of
from flexmdm_jax.generation.scoring import Score


def test_scores_are_compared_by_sequence_and_by_token():
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 50, 300)
    base = 3.0 * tokens + rng.normal(0, 5, 300)
    examples = {
        Run(label): Examples.of_score(Score(nats, np.zeros(300), tokens))
        for label, nats in {"A": base + 0.1 * tokens, "B": base, "C": base}.items()
    }
    rows = differences(examples, "B", 0)
    assert set(rows) == {
        f"{label} - B: {name}" for label in "AC" for name in ("nats_per_sequence", "nats_per_token")
    }
    found = rows["A - B: nats_per_token"]
    assert found["difference"] == pytest.approx(0.1)
    assert found["figure"] == pytest.approx(base.sum() / tokens.sum() + 0.1)
    assert found["p"] < 0.01
    same = rows["C - B: nats_per_token"]
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)


def test_successes_are_compared_way_by_way():
    right = np.arange(100) % 2 == 0
    examples = {
        Run("A", "8 steps", "8 steps"): Examples.of_successes(right),
        Run("A", "16 steps", "16 steps"): Examples.of_successes(right),
        Run("B", "8 steps", "8 steps"): Examples.of_successes(~right),
    }
    [(title, found)] = differences(examples, "B", 0).items()
    assert title == "A, 8 steps - B: success"
    assert found["difference"] == 0
    assert found["low"] < -0.1 < 0.1 < found["high"]
    assert found["examples"] == 100
    assert differences(examples, "", 0) == {}


def test_where_the_baseline_was_sampled_otherwise_its_best_way_counts():
    """Of those that are as fast: a row must not be free to choose among paces."""
    right = {"one": 40, "other": 60, "slower": 90}
    paces = {"one": "8 steps", "other": "8 steps", "slower": "16 steps"}
    examples = {
        Run("B", way, paces[way]): Examples.of_successes(np.arange(100) < count)
        for way, count in right.items()
    }
    examples[Run("A", "its own", "8 steps")] = Examples.of_successes(np.arange(100) < 70)
    [(title, found)] = differences(examples, "B", 0).items()
    assert title == "A, its own - B, other: success"
    assert found["difference"] == pytest.approx(0.1)


def test_runs_have_names_of_their_own_whatever_their_folders_are_called():
    assert labels_of(["a", "runs/b"], ["mdm", "flexmdm"]) == ["MDM", "FlexMDM"]
    assert labels_of(["a", "runs/b", "c"], ["mdm", "mdm", "flexmdm"]) == [
        "MDM",
        "runs/b",
        "FlexMDM",
    ]
    folders = ["a", "MDM", "c", "FlexMDM", "data"]
    labels = labels_of(folders, ["mdm", "mdm", "flexmdm", "mdm", "flexmdm"])
    assert labels == ["MDM", "./MDM", "FlexMDM", "./FlexMDM", "./data"]
