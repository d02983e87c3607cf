"""As owt.py on a thousand excerpts of OpenWebText, with a model small enough for a CPU."""

from ml_collections import ConfigDict

from flexmdm_jax.config import load_config_file


def get_config() -> ConfigDict:
    config = load_config_file(__file__, "owt.py")
    config.model.update(
        hidden_size=64, num_layers=2, num_heads=4, condition_size=64, compute_dtype="float32"
    )
    # Attention on a CPU computes every pair of a row's slots; one paragraph in 500 is split at 256.
    config.data.update(path="data/owt_excerpts", max_length=256, row_length=256, max_segments=24)
    config.data.prepare = (
        "python -m flexmdm_jax.prepare --tokenizer=gpt2 --tokenizer_dir=PATH/TO/gpt2 "
        "--source=jsonl:$FLEXMDM_DATA_DIR/openwebtext_excerpts/*.jsonl.gz --max_length=256 "
        "--out=data/owt_excerpts"
    )
    config.optimizer.update(learning_rate=3e-3, warmup_steps=50, ema_decay=0.98)
    config.training.update(
        num_steps=300, batch_size=4, log_every=25, evaluate_every=300, checkpoint_every=300
    )
    config.evaluation.update(
        num_sequences=64, num_times=4, num_samples=16, num_steps=16, batch_size=16
    )
    return config
