"""FlexMDM on the small maze with 10 subgoals."""

from ml_collections import ConfigDict

from flexmdm_jax.config import load_config_file


def get_config() -> ConfigDict:
    return load_config_file(__file__, "maze_small_easy.py", num_subgoals=10)
