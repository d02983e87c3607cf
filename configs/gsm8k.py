"""The FlexMDM made of LLaDA-8B, fine-tuned on GSM8K's questions and answers (paper, 5.2, F.3)."""

from ml_collections import ConfigDict

from flexmdm_jax.config import load_config_file


def get_config() -> ConfigDict:
    config = load_config_file(__file__, "llada_flexmdm.py")
    config.data = {
        "path": "data/gsm8k",
        # As in the run it starts from: it scales the insertion head.
        "max_length": 1024,
        "prepare": (
            "python -m flexmdm_jax.prepare --source=gsm8k:data=PATH/TO/gsm8k,max_length=512 "
            "--tokenizer=hf:data/llada/files --out=data/gsm8k"
        ),
    }
    config.training.start = "runs/llada_flexmdm"
    # 1,000 epochs of 7,473 examples in batches of 64.
    config.training.num_steps = 117_000
    config.training.evaluate_every = 2_000
    config.optimizer.warmup_steps = 5_850
    return config
