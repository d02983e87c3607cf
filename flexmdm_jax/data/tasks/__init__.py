"""Tasks with a known truth: data made from a rule, and what a right answer is."""

from flexmdm_jax.data.tasks.brackets import BracketsConfig
from flexmdm_jax.data.tasks.maze import MazeConfig

TASKS = {"maze": MazeConfig, "brackets": BracketsConfig}

__all__ = ["TASKS", "BracketsConfig", "MazeConfig"]
