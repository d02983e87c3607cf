"""The MDM baseline of the 41 x 41 maze with 2 subgoals: prompt, separator and path in one row."""

from ml_collections import ConfigDict

from flexmdm_jax.config import load_config_file


def get_config(num_subgoals: int = 2) -> ConfigDict:
    config = load_config_file(__file__, "maze_easy.py", num_subgoals=num_subgoals)
    config.method = "mdm"
    # END fills every row and is predicted: a row holds one path.
    config.data.update(packing=False, row_length=0)
    config.training.batch_size = 256
    # Room for the prompt before the path.
    config.data.max_length += 16
    return config
