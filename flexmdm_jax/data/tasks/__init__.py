"""Tasks: data of which a part is given and the rest generated."""

from flexmdm_jax.data.tasks.gsm8k import Gsm8kConfig
from flexmdm_jax.data.tasks.infilling import InfillingConfig

TASKS = {"gsm8k": Gsm8kConfig, "infilling": InfillingConfig}

__all__ = ["TASKS", "Gsm8kConfig", "InfillingConfig"]
