"""Ways through a maze: shortest paths between all its cells, and detours around them."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int

from flexmdm_jax.errors import UserError

# A step to each orthogonal neighbour, as (rows, columns).
MOVES = ((-1, 0), (0, -1), (0, 1), (1, 0))
_UNREACHED = -1


@dataclasses.dataclass(frozen=True)
class Routes:
    """Shortest paths between all free cells of a maze, by breadth-first search.

    Free cells are numbered in reading order.

    Attributes:
      cells: Position of each free cell, row · size + column.
      distance: Moves from one free cell to another; -1 where there is no way.
      step: step[goal, cell] is the cell after `cell` on its shortest path to `goal`.
    """

    cells: Int[np.ndarray, "n"]
    distance: Int[np.ndarray, "n n"]
    step: Int[np.ndarray, "n n"]

    @classmethod
    def through(cls, walls: Bool[np.ndarray, "s s"]) -> "Routes":
        """Returns the routes of a maze; among equally short ones, the first of MOVES wins."""
        cells = np.flatnonzero(~walls)
        number = np.full(walls.shape, len(cells))
        number.flat[cells] = np.arange(len(cells))
        rows, columns = np.divmod(cells, walls.shape[1])
        # One neighbour in each direction; a wall is the extra number n, which is never reached.
        neighbours = np.stack([number[rows + down, columns + right] for down, right in MOVES])
        distance = np.full((len(cells), len(cells) + 1), _UNREACHED, np.int16)
        frontier = np.eye(len(cells), len(cells) + 1, dtype=bool)
        for moves in range(len(cells)):
            distance[frontier] = moves
            reached = frontier[:, neighbours].any(axis=1)
            frontier[:, :-1] = reached & (distance[:, :-1] == _UNREACHED)
            if not frontier.any():
                break
        closer = distance[:, neighbours] == distance[:, None, :-1] - 1
        first = np.argmax(closer & (distance[:, neighbours] >= 0), axis=1)
        step = neighbours[first, np.arange(len(cells))]
        return cls(cells=cells, distance=distance[:, :-1], step=step.astype(np.int16))

    def follow(
        self,
        start: Int[np.ndarray, "p"],
        waypoint: Int[np.ndarray, "p"],
        goal: Int[np.ndarray, "p"],
    ) -> Int[np.ndarray, "p l"]:
        """Returns the ways from start to goal by the waypoint; each then stays at its goal."""
        length = int(np.max(self.distance[start, waypoint] + self.distance[waypoint, goal])) + 1
        path = np.empty((len(start), length), np.int16)
        cell, passed = start, start == waypoint
        for slot in range(length):
            path[:, slot] = cell
            target = np.where(passed, goal, waypoint)
            cell = np.where(cell == target, cell, self.step[target, cell])
            passed |= cell == waypoint
        return path


@dataclasses.dataclass(frozen=True)
class Paths:
    """Distinct paths of a set of pairs, as numbers of free cells.

    Attributes:
      cells: The path, then anything.
      lengths: Cells of each path, start and goal included.
      pair: The pair each path belongs to.
    """

    cells: Int[np.ndarray, "p l"]
    lengths: Int[np.ndarray, "p"]
    pair: Int[np.ndarray, "p"]


def draw_pairs(
    routes: Routes, num_pairs: int, num_subgoals: int, rng: np.random.Generator
) -> Int[np.ndarray, "p 2"]:
    """Returns distinct (start, goal) pairs whose shortest path has room for all subgoals.

    Raises:
      UserError: If the maze has fewer such pairs.
    """
    eligible = np.flatnonzero(routes.distance >= max(num_subgoals - 1, 1))
    if not len(eligible):
        raise UserError(
            f"no two free cells are {num_subgoals} cells apart, so K = {num_subgoals} subgoals fit "
            f"no shortest path (the longest has {routes.distance.max() + 1} cells); "
            "take fewer subgoals or a larger maze"
        )
    if len(eligible) < num_pairs:
        raise UserError(
            f"the maze has {len(eligible):,} pairs for K = {num_subgoals}, fewer than "
            f"num_pairs = {num_pairs:,}; ask for fewer or take a larger maze"
        )
    drawn = rng.choice(eligible, size=num_pairs, replace=False)
    return np.stack(np.divmod(drawn, len(routes.cells)), axis=1)


def draw_paths(
    routes: Routes,
    pairs: Int[np.ndarray, "p 2"],
    paths_per_pair: int,
    max_stretch: float,
    rng: np.random.Generator,
) -> Paths:
    """Returns the shortest path of every pair and detours around it, without repetition.

    A detour is the shortest way to a random waypoint and from there to the goal, kept if it visits
    no cell twice and is at most max_stretch times as long as the shortest path. Of four waypoints
    tried for each path wanted, the first that differ are kept.
    """
    start, goal = pairs[:, 0], pairs[:, 1]
    through = routes.distance[start] + routes.distance[:, goal].T
    direct = routes.distance[start, goal][:, None]
    allowed = (routes.distance[start] >= 0) & (through <= max_stretch * direct)
    order = np.where(allowed, rng.random(allowed.shape), 1.0)
    tries = min(4 * paths_per_pair, allowed.shape[1] - 1)
    waypoints = np.argsort(order, axis=1)[:, :tries]
    # The start as the first waypoint gives the shortest path itself.
    waypoints = np.concatenate([start[:, None], waypoints], axis=1)
    pair, turn = np.nonzero(np.take_along_axis(allowed, waypoints, axis=1))
    waypoint = waypoints[pair, turn]
    cells = routes.follow(start[pair], waypoint, goal[pair])
    lengths = through[pair, waypoint] + 1
    kept = _is_simple(cells, lengths) & _is_first(cells, pair)
    nth = np.cumsum(kept) - kept
    first = np.searchsorted(pair, pair)
    kept &= nth - nth[first] < paths_per_pair
    return Paths(cells=cells[kept], lengths=lengths[kept].astype(np.int64), pair=pair[kept])


def _is_simple(cells, lengths) -> Bool[np.ndarray, "p"]:
    """Returns which paths visit no cell twice."""
    slots = np.arange(cells.shape[1])[None, :]
    # Each slot after the end gets a number of its own.
    own = np.iinfo(np.int16).max - slots.astype(np.int16)
    ordered = np.sort(np.where(slots < lengths[:, None], cells, own), axis=1)
    return (np.diff(ordered, axis=1) != 0).all(axis=1)


def _is_first(cells, pair) -> Bool[np.ndarray, "p"]:
    """Returns which rows occur for the first time among those of their pair."""
    _, first = np.unique(np.column_stack([pair, cells]), axis=0, return_index=True)
    return np.isin(np.arange(len(pair)), first)
