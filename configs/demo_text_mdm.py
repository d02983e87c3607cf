"""The MDM baseline of the text demo: the same model and data, lengths fixed and padded with END."""

from ml_collections import ConfigDict

from flexmdm_jax.config import load_config_file


def get_config() -> ConfigDict:
    config = load_config_file(__file__, "demo_text.py")
    config.method = "mdm"
    config.unmasking = "linear"
    config.training.time_warp = 3.0
    # END fills every row and is predicted: a row holds one sequence.
    config.data.packing = False
    return config
