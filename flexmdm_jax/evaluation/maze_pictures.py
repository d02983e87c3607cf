"""Pictures of the planning task: a path, and how it came about."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from flexmdm_jax.evaluation.maze import Maze
from flexmdm_jax.files import png_of
from flexmdm_jax.types import Vocabulary

_PATH, _MASK, _SUBGOAL = "#1f77b4", "#999999", "#d62728"


def _draw_maze(axes, maze: Maze, subgoals: Int[np.ndarray, "k"]) -> None:
    """Draws walls, and subgoals numbered in the order in which they are to be visited."""
    size = maze.walls.shape[1]
    axes.imshow(maze.walls, cmap="binary", vmax=1.6)
    axes.set_axis_off()
    rows, columns = np.divmod(subgoals, size)
    axes.scatter(columns, rows, s=90, color=_SUBGOAL, zorder=3)
    for number, (row, column) in enumerate(zip(rows, columns, strict=True), start=1):
        axes.annotate(
            str(number), (column, row), color="white", fontsize=7, ha="center", va="center"
        )


def draw_path(maze: Maze, subgoals: Int[np.ndarray, "k"], path: Int[np.ndarray, "l"]) -> bytes:
    """Returns a PNG of the maze with its subgoals and a path, without tokens that are no cell."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.8), layout="constrained")
    axes = figure.subplots()
    _draw_maze(axes, maze, subgoals)
    rows, columns = np.divmod(path[path < maze.walls.size], maze.walls.shape[1])
    axes.plot(columns, rows, color=_PATH, lw=2.5, marker="o", ms=4)
    verdict = "a solution" if maze.is_solution(path, subgoals) else "not a solution"
    axes.set_title(f"{len(path)} cells, {verdict}")
    return png_of(figure)


def draw_states(
    maze: Maze,
    subgoals: Int[np.ndarray, "k"],
    states: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    panels: int = 6,
) -> bytes:
    """Returns a PNG of the sequence at equally spaced steps, END not being among its tokens.

    Clean cells stand where they belong; a mask has no place yet and is drawn on the line between
    the clean cells on either side of it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * panels, 3.4), layout="constrained")
    chosen = np.linspace(0, len(states) - 1, panels).round().astype(int)
    for axes, step in zip(figure.subplots(1, panels), chosen, strict=True):
        _draw_maze(axes, maze, subgoals)
        tokens = np.asarray(states[step])
        clean = np.flatnonzero(tokens < maze.walls.size)
        masked = np.flatnonzero(tokens == vocabulary.mask)
        places = np.divmod(tokens[clean], maze.walls.shape[1])
        rows, columns = (np.interp(np.arange(len(tokens)), clean, place) for place in places)
        axes.scatter(columns[clean], rows[clean], s=22, color=_PATH, zorder=2)
        axes.scatter(columns[masked], rows[masked], s=22, ec=_MASK, fc="white", zorder=2)
        axes.set_title(
            f"after {step + 1} of {len(states)} steps\n{len(clean)} cells, {len(masked)} masks",
            fontsize=9,
        )
    return png_of(figure)
