"""The planning task: how often a generated path is a solution (paper, F.2)."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from flexmdm_jax.data.storage.records import VALIDATION, Dataset, read_sequences
from flexmdm_jax.generation.starts import Start
from flexmdm_jax.process import Process


@dataclasses.dataclass(frozen=True)
class Maze:
    """The truth that a model is measured against.

    Attributes:
      walls: True where no path may go.
      num_subgoals: K, start and goal among them.
      separator: Token between subgoals and path in MDM's rows.
    """

    walls: Bool[np.ndarray, "s s"]
    num_subgoals: int
    separator: int

    @classmethod
    def of(cls, task: dict[str, Any]) -> "Maze":
        """Returns the maze that a dataset describes."""
        walls = np.array([[cell == "#" for cell in row] for row in task["walls"]])
        return cls(walls, task["num_subgoals"], task["separator"])

    def is_solution(self, path: Int[np.ndarray, "l"], subgoals: Int[np.ndarray, "k"]) -> bool:
        """Returns whether a path meets both of the paper's criteria.

        Args:
          path: Positions row · size + column, or any other token id.
          subgoals: Positions that it has to join, in order.
        """
        return self.is_valid(path) and self.joins(path, subgoals)

    def is_valid(self, path: Int[np.ndarray, "l"]) -> bool:
        """Returns whether there is a path and every token of it is a free cell (criterion 1)."""
        free = (~self.walls).flatten()
        inside = (path >= 0) & (path < free.size)
        return len(path) > 0 and bool(inside.all()) and bool(free[path].all())

    def joins(self, path: Int[np.ndarray, "l"], subgoals: Int[np.ndarray, "k"]) -> bool:
        """Returns whether a path leads from subgoal to subgoal, in order (criterion 2)."""
        return self.is_connected(path) and self.visits(path, subgoals)

    def is_connected(self, path: Int[np.ndarray, "l"]) -> bool:
        """Returns whether there is a path and each cell is an orthogonal neighbour of the last."""
        rows, columns = np.divmod(path, self.walls.shape[1])
        moves = np.abs(np.diff(rows)) + np.abs(np.diff(columns))
        return len(path) > 0 and bool(np.all(moves == 1))

    def arrives(self, path: Int[np.ndarray, "l"], subgoals: Int[np.ndarray, "k"]) -> bool:
        """Returns whether a path ends at the last subgoal."""
        return len(path) > 0 and bool(path[-1] == subgoals[-1])

    def visits(self, path: Int[np.ndarray, "l"], subgoals: Int[np.ndarray, "k"]) -> bool:
        """Returns whether a path begins at the first subgoal, ends at the last and comes by all.

        They count in their order only; what lies between them does not matter.
        """
        if not self.arrives(path, subgoals) or path[0] != subgoals[0]:
            return False
        position = 0
        for subgoal in subgoals:
            later = np.flatnonzero(path[position:] == subgoal)
            if not len(later):
                return False
            position += int(later[0])
        return True


def held_out_prompts(dataset: Dataset, num: int, seed: int) -> Int[np.ndarray, "n k"]:
    """Returns the subgoals of held-out paths, each set of them once, at most num in random order.

    Args:
      dataset: Of the task.
      num: How many are wanted.
      seed: Decides which.
    """
    prompts = np.stack([s.tokens[s.fixed] for s in read_sequences(dataset, VALIDATION)])
    prompts = np.unique(prompts, axis=0)
    return np.random.default_rng(seed).permutation(prompts)[:num]


def prompt_start(
    subgoals: Int[np.ndarray, "k"], length: int, process: Process, *, separator: int
) -> Start:
    """Returns where a path is grown from: FlexMDM's from its subgoals, MDM's after its prompt.

    Only the gaps between FlexMDM's subgoals are open.

    Args:
      subgoals: Cells to come by.
      length: Slots of a row.
      process: Decides between the two.
      separator: What closes MDM's prompt.
    """
    if process.inserts:
        return Start.of(subgoals, range(1, len(subgoals)), process, length)
    return Start.of([*subgoals.tolist(), separator], [len(subgoals) + 1], process, length)


def path_of(tokens: Int[np.ndarray, "l"], maze: Maze, process: Process) -> np.ndarray:
    """Returns the path in a generated row without END: MDM's follows its prompt."""
    return tokens if process.inserts else tokens[maze.num_subgoals + 1 :]
