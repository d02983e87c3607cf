"""Tasks: data of which a part is given and the rest generated, or of which the truth is known."""

from flexmdm_jax.data.tasks.brackets import BracketsConfig
from flexmdm_jax.data.tasks.gsm8k import Gsm8kConfig
from flexmdm_jax.data.tasks.infilling import InfillingConfig
from flexmdm_jax.data.tasks.maze import MazeConfig
from flexmdm_jax.data.tasks.numbers import NumbersConfig

# Tasks of symbols of their own, and tasks of text, which take a tokenizer.
SYMBOL_TASKS = {"maze": MazeConfig, "brackets": BracketsConfig, "numbers": NumbersConfig}
TEXT_TASKS = {"gsm8k": Gsm8kConfig, "infilling": InfillingConfig}
TASKS = SYMBOL_TASKS | TEXT_TASKS
# Tasks of which each sequence comes with a prompt; nothing is generated from nothing.
PROMPTED_TASKS = frozenset({"maze", "gsm8k", "infilling"})

__all__ = [
    "PROMPTED_TASKS",
    "SYMBOL_TASKS",
    "TASKS",
    "TEXT_TASKS",
    "BracketsConfig",
    "Gsm8kConfig",
    "InfillingConfig",
    "MazeConfig",
    "NumbersConfig",
]
