"""The MDM baseline of the small maze with 7 subgoals: prompt, separator and path in one row."""

from ml_collections import ConfigDict

from flexmdm_jax.config import load_config_file


def get_config(num_subgoals: int = 7) -> ConfigDict:
    config = load_config_file(__file__, "maze_small_easy.py", num_subgoals=num_subgoals)
    config.method = "mdm"
    config.unmasking = "linear"
    # END fills every row and is predicted: a row holds one path.
    config.data.update(packing=False, row_length=0, max_segments=0)
    config.training.batch_size = 64
    # Each method has the better of 3e-3 and 5e-3 (docs/results.md).
    config.optimizer.learning_rate = 5e-3
    # Room for the prompt before the longest path.
    config.data.max_length = 60
    return config
