"""The MDM baseline of the 41 x 41 maze with 12 subgoals: prompt, separator and path in one row."""

from ml_collections import ConfigDict

from flexmdm_jax.config import load_config_file


def get_config() -> ConfigDict:
    return load_config_file(__file__, "maze_easy_mdm.py", num_subgoals=12)
