"""The MDM baseline of the demo: the same model and data, lengths fixed and padded with END."""

from ml_collections import ConfigDict

from flexmdm_jax.config import load_config_file


def get_config() -> ConfigDict:
    config = load_config_file(__file__, "demo.py")
    config.method = "mdm"
    config.unmasking = "linear"
    # END fills every row and is predicted: a row holds one number, of nine words at most.
    config.data.update(max_length=10, packing=False, row_length=0, max_segments=0)
    # As much time as FlexMDM takes; its steps are the longer ones.
    config.training.update(num_steps=2550, batch_size=96, time_warp=3.0)
    return config
