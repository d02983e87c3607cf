"""LLaDA-8B itself, fine-tuned on GSM8K: adapters alone, lengths fixed (paper, Appendix F.3)."""

from ml_collections import ConfigDict

from flexmdm_jax.config import load_config_file


def get_config() -> ConfigDict:
    config = load_config_file(__file__, "gsm8k.py")
    config.method = "mdm"
    config.data.max_length = 512
    config.training.start = ""
    # 100 epochs, after which the paper saw no progress.
    config.training.num_steps = 11_700
    config.optimizer.warmup_steps = 585
    return config
