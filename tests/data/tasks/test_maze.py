"""The planning task's data: mazes and paths against plain breadth-first searches."""

import collections
import itertools

import numpy as np
import pytest
import scipy.stats

from flexmdm_jax.data.batches.rows import arrange_for
from flexmdm_jax.data.storage.records import TRAIN, VALIDATION, read_sequences
from flexmdm_jax.data.tasks.maze import MazeConfig, draw_plans, draw_subgoals, make_walls
from flexmdm_jax.data.tasks.routes import Routes, draw_pairs, draw_paths
from flexmdm_jax.errors import UserError
from flexmdm_jax.process import Process

SMALL = MazeConfig(size=11, extra_doors=0.3, num_pairs=200, num_subgoals=4, validation_fraction=0.1)


def _neighbours(walls, cell):
    row, column = cell
    steps = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
    return [step for step in steps if not walls[step]]


def _distances(walls, start):
    """Moves from one cell to every cell, by breadth-first search with a queue."""
    found, queue = {start: 0}, collections.deque([start])
    while queue:
        cell = queue.popleft()
        for step in _neighbours(walls, cell):
            if step not in found:
                found[step] = found[cell] + 1
                queue.append(step)
    return found


def _free(walls):
    return [(int(row), int(column)) for row, column in np.argwhere(~walls)]


@pytest.mark.parametrize("size", [5, 11, 21])
def test_recursive_division_leaves_one_path_between_any_two_cells(size):
    walls = make_walls(size, 0.0, np.random.default_rng(size))
    free = _free(walls)
    assert walls[0].all()
    assert walls[-1].all()
    assert walls[:, 0].all()
    assert walls[:, -1].all()
    assert not walls[1::2, 1::2].any()
    assert len(_distances(walls, free[0])) == len(free)
    # A connected graph is a tree if it has one edge fewer than nodes.
    assert sum(len(_neighbours(walls, cell)) for cell in free) == 2 * (len(free) - 1)


def test_extra_doors_open_walls_between_two_passages():
    closed = make_walls(21, 0.0, np.random.default_rng(3))
    opened = make_walls(21, 0.4, np.random.default_rng(3))
    candidates = [
        (row, column)
        for row, column in itertools.product(range(1, 20), repeat=2)
        if closed[row, column]
        and (
            not (closed[row - 1, column] or closed[row + 1, column])
            or not (closed[row, column - 1] or closed[row, column + 1])
        )
    ]
    doors = _free(closed & ~opened)
    changed = [(int(row), int(column)) for row, column in np.argwhere(closed & ~opened)]
    assert doors
    assert set(changed) <= set(candidates)
    assert len(changed) == int(0.4 * len(candidates))
    assert not (opened & ~closed).any()


def test_routes_are_shortest_paths():
    walls = make_walls(11, 0.3, np.random.default_rng(0))
    routes = Routes.through(walls)
    free = _free(walls)
    assert [row * 11 + column for row, column in free] == routes.cells.tolist()
    for number, cell in enumerate(free):
        found = _distances(walls, cell)
        assert routes.distance[number].tolist() == [found[other] for other in free]
        for goal, other in enumerate(free):
            if other != cell:
                after = routes.step[goal, number]
                assert free[after] in _neighbours(walls, cell)
                assert found[other] == 1 + routes.distance[after, goal]


def test_paths_are_simple_distinct_and_not_much_longer_than_the_shortest():
    rng = np.random.default_rng(1)
    walls = make_walls(15, 0.5, rng)
    routes = Routes.through(walls)
    pairs = draw_pairs(routes, 300, 5, rng)
    paths = draw_paths(routes, pairs, 6, 1.4, rng)
    of_pair = collections.defaultdict(list)
    for cells, length, pair in zip(paths.cells, paths.lengths, paths.pair, strict=True):
        of_pair[int(pair)].append(tuple(cells[:length].tolist()))
    assert sorted(of_pair) == list(range(300))
    assert max(map(len, of_pair.values())) == 6
    for pair, found in of_pair.items():
        shortest = routes.distance[tuple(pairs[pair])] + 1
        assert shortest >= 5
        assert len(found[0]) == shortest
        assert len(set(found)) == len(found) <= 6
        for path in found:
            assert (path[0], path[-1]) == tuple(pairs[pair])
            assert len(set(path)) == len(path)
            assert len(path) - 1 <= 1.4 * (shortest - 1)
            assert all(routes.distance[a, b] == 1 for a, b in itertools.pairwise(path))


def test_subgoals_are_both_ends_and_a_uniform_choice_between():
    lengths = np.repeat([4, 9], 4000)
    chosen = draw_subgoals(lengths, 4, np.random.default_rng(0))
    assert (chosen.sum(axis=1) == 4).all()
    assert chosen[:, 0].all()
    assert chosen[np.arange(8000), lengths - 1].all()
    counts = chosen[4000:, 1:8].sum(axis=0)
    # Without replacement the counts vary less than the test assumes, so it errs on the safe side.
    assert scipy.stats.chisquare(counts).pvalue > 1e-4


def test_a_pair_is_held_out_both_ways():
    _, plans = draw_plans(
        MazeConfig(size=9, num_pairs=400, num_subgoals=2, validation_fraction=0.2)
    )
    side = collections.defaultdict(set)
    for plan in plans:
        side[frozenset(plan.path[[0, -1]].tolist())].add(plan.held_out)
    assert all(len(held_out) == 1 for held_out in side.values())
    share = np.mean([held_out == {True} for held_out in side.values()])
    np.testing.assert_allclose(share, 0.2, atol=1 / len(side))


def test_the_seed_decides_the_dataset(tmp_path):
    datasets = [
        MazeConfig(size=9, num_pairs=50, seed=seed, validation_fraction=0.2).write(tmp_path / name)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    files = [
        [(dataset.directory / name).read_bytes() for name in ("dataset.json",)]
        + [tuple(s.tokens.tobytes() for s in read_sequences(dataset, split)) for split in splits]
        for dataset, splits in zip(datasets, [(TRAIN, VALIDATION)] * 3, strict=True)
    ]
    assert files[0] == files[1] != files[2]


def test_rows_of_both_methods_hold_the_same_path(tmp_path):
    dataset = SMALL.write(tmp_path / "maze")
    vocabulary, separator = dataset.vocabulary, dataset.task["separator"]
    tokenizer = dataset.tokenizer()
    for sequence in itertools.islice(read_sequences(dataset, VALIDATION), 20):
        path, subgoals = sequence.tokens[:-1], sequence.tokens[sequence.fixed]
        flex = arrange_for(Process(vocabulary), dataset.task)(sequence, 60, vocabulary)
        mdm = arrange_for(Process.mdm(vocabulary), dataset.task)(sequence, 60, vocabulary)
        n = len(path)
        assert flex.tokens[:n].tolist() == path.tolist()
        assert flex.fixed.nonzero()[0].tolist() == [*np.flatnonzero(sequence.fixed), n]
        assert mdm.tokens[: n + 5].tolist() == [*subgoals, separator, *path]
        assert (mdm.tokens[n + 5 :] == vocabulary.end).all()
        assert len(mdm.tokens) == 60
        assert mdm.fixed.tolist() == [True] * 5 + [False] * 55
        text = tokenizer.decode(path.tolist())
        assert text.split()[0] == "{},{}".format(*divmod(int(path[0]), 11))
        assert tokenizer.encode(text) == path.tolist()


@pytest.mark.parametrize(
    ("message", "values"),
    [
        ("size = 10; sizes are odd", {"size": 10}),
        ("size = 3; it must lie in", {"size": 3}),
        ("size = 211; it must lie in", {"size": 211}),
        ("num_subgoals = 1; it must be at least 2", {"num_subgoals": 1}),
        ("extra_doors = 2.0", {"extra_doors": 2.0}),
        ("max_stretch = 0.5", {"max_stretch": 0.5}),
        ("num_pairs", {"num_pairs": 0}),
    ],
)
def test_values_out_of_range_are_refused(message, values):
    with pytest.raises(ValueError, match=message):
        MazeConfig(**values)


def test_a_maze_without_enough_pairs_is_refused():
    with pytest.raises(UserError, match="no two free cells are 99 cells apart"):
        draw_plans(MazeConfig(size=11, num_pairs=10, num_subgoals=99, validation_fraction=0.1))
    with pytest.raises(UserError, match="fewer than num_pairs = 5,000"):
        draw_plans(MazeConfig(size=7, num_pairs=5000, validation_fraction=0.1))
