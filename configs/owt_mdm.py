"""The MDM baseline on OpenWebText: as owt.py, lengths fixed and padded with END."""

from ml_collections import ConfigDict

from flexmdm_jax.config import load_config_file


def get_config() -> ConfigDict:
    config = load_config_file(__file__, "owt.py")
    config.method = "mdm"
    # END fills every row and is predicted: a row holds one sequence.
    config.data.update(packing=False, row_length=0, max_segments=0)
    config.training.batch_size = 1024
    return config
