"""The planning task: paths through a fixed maze that visit subgoals in order (paper, F.2).

The maze is never shown to the model: it learns which cells are free from the paths it sees.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Int

from flexmdm_jax.data.storage.records import TRAIN, VALIDATION, Dataset, write_dataset
from flexmdm_jax.data.tasks.routes import Routes, draw_pairs, draw_paths
from flexmdm_jax.data.tokenizers import SymbolTokenizer
from flexmdm_jax.ranges import Count, OneOrMore, ProperShare, Range, Ranged, Seed, Share, TwoOrMore

# Between the subgoals and the path in MDM's rows.
SEPARATOR = "|"
# Pairs whose detours are drawn together; bounds memory, and changes nothing else.
_PAIRS_AT_A_TIME = 1_000


@dataclasses.dataclass(frozen=True)
class MazeConfig(Ranged):
    """A maze and the paths drawn through it.

    Attributes:
      size: Cells along each side, walls included; odd.
      extra_doors: Share of the walls between two passages that is opened after the division.
      num_pairs: Start-goal pairs.
      num_subgoals: K, start and goal among them.
      paths_per_pair: Most distinct paths kept for a pair.
      max_stretch: A detour is at most this many times as long as the shortest path.
      validation_fraction: Share of pairs that are held out.
      seed: Decides the maze, the pairs, the paths and the subgoals.

    Raises:
      ValueError: If the size is even.
    """

    # Up to three quarters of the cells are free, and routes number these in int16.
    size: Annotated[int, Range(5, 209)] = 41
    extra_doors: Share = 0.5
    num_pairs: Count = 15_000
    num_subgoals: TwoOrMore = 2
    paths_per_pair: Count = 10
    max_stretch: OneOrMore = 1.5
    validation_fraction: ProperShare = 0.05
    seed: Seed = 0

    def __post_init__(self):
        super().__post_init__()
        if self.size % 2 == 0:
            raise ValueError(f"size = {self.size}; sizes are odd, such as 41")

    def write(self, directory: pathlib.Path) -> Dataset:
        """Returns the dataset of the paths' cells, subgoals fixed, after writing it.

        A token is the cell's position, row · size + column; the separator follows the cells.

        Raises:
          UserError: If the maze has too few pairs, or the directory holds files already.
        """
        walls, plans = draw_plans(self)
        plans = list(plans)
        cells = [f"{row},{column}" for row in range(self.size) for column in range(self.size)]
        return write_dataset(
            directory,
            (
                (
                    VALIDATION if plan.held_out else TRAIN,
                    plan.path.tolist(),
                    plan.is_subgoal.tolist(),
                )
                for plan in plans
            ),
            SymbolTokenizer.of([*cells, SEPARATOR]),
            max_length=max(len(plan.path) for plan in plans) + 1,
            origin={"source": "maze", **dataclasses.asdict(self)},
            task={
                "kind": "maze",
                "num_subgoals": self.num_subgoals,
                "separator": self.size**2,
                "walls": ["".join(".#"[wall] for wall in row) for row in walls.astype(int)],
            },
        )


def make_walls(size: int, extra_doors: float, rng: np.random.Generator) -> Bool[np.ndarray, "s s"]:
    """Returns where the walls are: recursive division, then extra doorways (paper, Listing 1).

    A chamber is split across its longer side by a wall with one gap, until chambers are one cell
    wide; rooms lie on odd rows and columns. That alone leaves one path between any two cells; the
    extra doorways add loops.

    Args:
      size: Cells along each side; odd and at least 5.
      extra_doors: Share of the remaining walls between two passages that is opened.
      rng: Decides every wall.
    """
    walls = np.ones((size, size), bool)
    walls[1:-1, 1:-1] = False
    chambers = [(1, 1, size - 2, size - 2)]
    while chambers:
        top, left, height, width = chambers.pop()
        if height <= 2 or width <= 2:
            continue
        if width < height:
            row = top + 1 + 2 * int(rng.integers(height // 2))
            walls[row, left : left + width] = True
            walls[row, left + 2 * int(rng.integers((width + 1) // 2))] = False
            chambers.append((top, left, row - top, width))
            chambers.append((row + 1, left, top + height - row - 1, width))
        else:
            column = left + 1 + 2 * int(rng.integers(width // 2))
            walls[top : top + height, column] = True
            walls[top + 2 * int(rng.integers((height + 1) // 2)), column] = False
            chambers.append((top, left, height, column - left))
            chambers.append((top, column + 1, height, left + width - column - 1))
    free = ~walls
    between = np.zeros_like(walls)
    between[1:-1, 1:-1] = (free[:-2, 1:-1] & free[2:, 1:-1]) | (free[1:-1, :-2] & free[1:-1, 2:])
    candidates = np.flatnonzero(walls & between)
    opened = rng.choice(candidates, size=int(len(candidates) * extra_doors), replace=False)
    walls.flat[opened] = False
    return walls


def draw_subgoals(
    lengths: Int[np.ndarray, "p"], num_subgoals: int, rng: np.random.Generator
) -> Bool[np.ndarray, "p l"]:
    """Returns where K cells of each path are its subgoals: both ends, the rest uniformly between.

    Args:
      lengths: Cells of each path; at least K.
      num_subgoals: K.
      rng: Decides which.
    """
    slots = np.arange(lengths.max())[None, :]
    order = rng.random((len(lengths), slots.shape[1]))
    order = np.where((slots == 0) | (slots == lengths[:, None] - 1), -1.0, order)
    order = np.where(slots < lengths[:, None], order, 2.0)
    return np.argsort(np.argsort(order, axis=1), axis=1) < num_subgoals


@dataclasses.dataclass(frozen=True)
class Plan:
    """One path with its subgoals.

    Attributes:
      held_out: Whether its pair is kept from training.
      path: Positions row · size + column, start and goal included.
      is_subgoal: Where they are subgoals.
    """

    held_out: bool
    path: Int[np.ndarray, "l"]
    is_subgoal: Bool[np.ndarray, "l"]


def draw_plans(config: MazeConfig) -> tuple[Bool[np.ndarray, "s s"], Iterator[Plan]]:
    """Returns (walls, plans in the order of their pairs).

    A pair is held out together with the pair in the other direction.

    Args:
      config: The maze and how many paths.

    Raises:
      UserError: If the maze has too few pairs.
    """
    maze_rng, pair_rng, path_rng = np.random.default_rng(config.seed).spawn(3)
    walls = make_walls(config.size, config.extra_doors, maze_rng)
    routes = Routes.through(walls)
    pairs = draw_pairs(routes, config.num_pairs, config.num_subgoals, pair_rng)
    both_ways, ids = np.unique(np.sort(pairs, axis=1), axis=0, return_inverse=True)
    held_out = (pair_rng.permutation(len(both_ways)) < config.validation_fraction * len(both_ways))[
        ids
    ]

    def plans() -> Iterator[Plan]:
        for begin in range(0, len(pairs), _PAIRS_AT_A_TIME):
            chunk = slice(begin, begin + _PAIRS_AT_A_TIME)
            paths = draw_paths(
                routes, pairs[chunk], config.paths_per_pair, config.max_stretch, path_rng
            )
            subgoals = draw_subgoals(paths.lengths, config.num_subgoals, path_rng)
            for cells, length, chosen, pair in zip(
                paths.cells, paths.lengths, subgoals, paths.pair, strict=True
            ):
                yield Plan(
                    held_out=bool(held_out[chunk][pair]),
                    path=routes.cells[cells[:length]],
                    is_subgoal=chosen[:length],
                )

    return walls, plans()
