"""The MDM baseline of the brackets: the same model and strings, padded with END."""

from ml_collections import ConfigDict

from flexmdm_jax.config import load_config_file


def get_config() -> ConfigDict:
    config = load_config_file(__file__, "brackets.py")
    config.method = "mdm"
    config.unmasking = "linear"
    # As it was measured (docs/results.md); whether the mark helps MDM is not known.
    config.model.mark_start = False
    # Nothing is inserted, so the longest string and END fill a row.
    config.data.update(max_length=65, packing=False, max_segments=0)
    config.training.batch_size = 64
    # Rows are twice as long, and a step takes twice as long.
    config.training.num_steps = 12_000
    config.training.evaluate_every = 12_000
    return config
