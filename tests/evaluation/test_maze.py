"""Success in the maze: what counts as a solution, on whose word, and how sure the share is."""

import numpy as np
import pytest
import scipy.stats

from flexmdm_jax.data.tasks.maze import MazeConfig
from flexmdm_jax.evaluation.intervals import success_interval
from flexmdm_jax.evaluation.maze import (
    Maze,
    held_out_prompts,
    path_of,
    prompt_start,
)
from flexmdm_jax.process import Process
from flexmdm_jax.types import Vocabulary

MAZE = Maze.of(
    {
        "walls": [
            "#####",
            "#...#",
            "#.#.#",
            "#...#",
            "#####",
        ],
        "num_subgoals": 3,
        "separator": 25,
    }
)
VOCABULARY = Vocabulary(size=28, mask=26, end=27)
FLEXMDM, MDM = Process(VOCABULARY), Process.mdm(VOCABULARY)


def _cells(*places):
    return np.array([row * 5 + column for row, column in places])


SUBGOALS = _cells((1, 1), (1, 3), (3, 3))
SOLUTION = _cells((1, 1), (1, 2), (1, 3), (2, 3), (3, 3))


def test_a_path_through_every_subgoal_is_a_solution():
    assert MAZE.is_solution(SOLUTION, SUBGOALS)
    # A longer way is one as well.
    round_trip = _cells((1, 1), (1, 2), (1, 1), (1, 2), (1, 3), (2, 3), (3, 3))
    assert MAZE.is_solution(round_trip, SUBGOALS)


@pytest.mark.parametrize(
    ("fault", "path"),
    [
        ("a wall", _cells((1, 1), (1, 2), (1, 3), (1, 4), (1, 3), (2, 3), (3, 3))),
        ("the inner wall", _cells((1, 1), (1, 2), (1, 3), (1, 2), (2, 2), (2, 3), (3, 3))),
        ("a token that is no cell", np.array([*SOLUTION[:2], 25, *SOLUTION[2:]])),
        ("a mask", np.array([*SOLUTION[:2], 26, *SOLUTION[2:]])),
        ("a diagonal move", _cells((1, 1), (1, 2), (1, 3), (1, 2), (2, 3), (3, 3))),
        ("a skipping move", _cells((1, 1), (1, 3), (2, 3), (3, 3))),
        ("a move across the edge of a row", np.array([*SOLUTION[:3], 9, 10, 9, 8, 13, 18])),
        ("a cell twice in a row", np.repeat(SOLUTION, [1, 2, 1, 1, 1])),
        ("the wrong start", SOLUTION[1:]),
        ("the wrong goal", SOLUTION[:-1]),
        ("a missing subgoal", _cells((1, 1), (2, 1), (3, 1), (3, 2), (3, 3))),
        ("no path", np.array([], int)),
    ],
)
def test_a_path_is_rejected_for(fault, path):
    assert not MAZE.is_solution(path, SUBGOALS)


def test_subgoals_in_the_wrong_order_are_rejected():
    around = _cells((1, 1), (1, 2), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1))
    assert MAZE.is_solution(around, _cells((1, 1), (1, 3), (3, 3), (3, 1)))
    assert not MAZE.is_solution(around, _cells((1, 1), (3, 3), (1, 3), (3, 1)))


def test_the_two_criteria_are_apart():
    through_the_wall = _cells((1, 1), (1, 2), (2, 2), (3, 2), (3, 3))
    subgoals = _cells((1, 1), (3, 3))
    assert not MAZE.is_valid(through_the_wall)
    assert MAZE.joins(through_the_wall, subgoals)
    apart = _cells((1, 1), (3, 3))
    assert MAZE.is_valid(apart)
    assert not MAZE.joins(apart, subgoals)


def test_the_parts_of_the_second_criterion_are_apart():
    leap = _cells((1, 1), (3, 1), (3, 3))
    subgoals = _cells((1, 1), (3, 1), (3, 3))
    assert MAZE.visits(leap, subgoals)
    assert not MAZE.is_connected(leap)
    around = _cells((1, 1), (1, 2), (1, 3), (2, 3), (3, 3))
    assert MAZE.is_connected(around)
    assert not MAZE.visits(around, subgoals)
    assert not MAZE.is_connected(np.array([], int))
    assert not MAZE.visits(np.array([], int), subgoals)
    assert MAZE.arrives(around, subgoals)
    assert not MAZE.arrives(around[:-1], subgoals)
    assert not MAZE.arrives(np.array([], int), subgoals)


@pytest.mark.parametrize(("successes", "num"), [(0, 20), (7, 20), (20, 20), (431, 500)])
def test_interval_is_wilsons(successes, num):
    figures = success_interval([True] * successes + [False] * (num - successes))
    expected = scipy.stats.binomtest(successes, num).proportion_ci(0.95, method="wilson")
    assert figures["success"] == successes / num
    np.testing.assert_allclose(
        [figures["success_low"], figures["success_high"]], expected, atol=1e-6
    )


def test_only_the_gaps_between_subgoals_are_open():
    start = prompt_start(SUBGOALS, 9, FLEXMDM, separator=25)
    assert start.tokens.tolist() == [*SUBGOALS, 27]
    assert start.closed.tolist() == [True, False, False, True]
    assert start.fixed.all()


def test_mdm_is_prompted_with_subgoals_and_writes_after_them():
    start = prompt_start(SUBGOALS, 9, MDM, separator=25)
    assert start.tokens.tolist() == [*SUBGOALS, 25, 26, 26, 26, 26, 26]
    assert start.fixed.tolist() == [True] * 4 + [False] * 5
    row = np.array([*SUBGOALS, 25, *SOLUTION])
    assert path_of(row, MAZE, MDM).tolist() == SOLUTION.tolist()
    assert path_of(SOLUTION, MAZE, FLEXMDM).tolist() == SOLUTION.tolist()


def test_held_out_prompts_are_distinct_and_never_trained_on(tmp_path):
    config = MazeConfig(size=9, num_pairs=300, num_subgoals=2, validation_fraction=0.2)
    dataset = config.write(tmp_path / "maze")
    prompts = held_out_prompts(dataset, 1000, seed=0)
    assert len(np.unique(prompts, axis=0)) == len(prompts) > 40
    again = held_out_prompts(dataset, 10, seed=0)
    assert again.tolist() == prompts[:10].tolist()
    assert held_out_prompts(dataset, 10, seed=1).tolist() != again.tolist()
