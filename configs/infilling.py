"""As gsm8k.py, but fine-tuned to fill gaps in code (paper, 5.2 and F.3)."""

from ml_collections import ConfigDict

from flexmdm_jax.config import load_config_file


def get_config() -> ConfigDict:
    config = load_config_file(__file__, "gsm8k.py")
    config.data.path = "data/infilling"
    config.data.prepare = (
        "python -m flexmdm_jax.prepare --tokenizer=hf:data/llada/files --out=data/infilling "
        "--source='infilling:source=jsonl:PATH/TO/opc-sft-stage2/educational*.jsonl#code'"
    )
    # 50 epochs of about 0.1 million examples in batches of 64.
    config.training.num_steps = 78_000
    config.optimizer.warmup_steps = 3_900
    return config
