"""LLaDA-8B itself, fine-tuned to fill gaps in code that stand after prefix and suffix."""

from ml_collections import ConfigDict

from flexmdm_jax.config import load_config_file


def get_config() -> ConfigDict:
    config = load_config_file(__file__, "infilling.py")
    config.method = "mdm"
    # Room for the marks around prefix and suffix.
    config.data.max_length = 1088
    config.training.start = ""
    return config
