"""A tiny LLaDA of random weights made a FlexMDM on GSM8K: every step of a retrofit, in minutes."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "flexmdm",
            "insertion": "linear",
            "unmasking": "linear",
            "model": {
                "kind": "llada",
                # As benchmarks/tiny_llada.py writes it.
                "hidden_size": 64,
                "num_layers": 4,
                "num_heads": 4,
                "compute_dtype": "float32",
                "scan_unroll": 4,
                "llada": {
                    "base": "data/tiny_llada",
                    "embedding_size": 1024,
                    "mlp_size": 128,
                    "num_kv_heads": 4,
                    "layers_per_group": 2,
                    "lora": {
                        "rank": 16,
                        "alpha": 16.0,
                        "dropout_rate": 0.1,
                        "targets": "q,k,v,head",
                    },
                },
            },
            "data": {
                "path": "data/gsm8k_small",
                "max_length": 704,
                # Half of the examples take less than 194 slots.
                "buckets": (256, 384),
                "prepare": (
                    "python -m flexmdm_jax.prepare --source=gsm8k:data=PATH/TO/gsm8k,"
                    "max_length=704 --tokenizer=sentencepiece:FILE --out=data/gsm8k_small"
                ),
            },
            "optimizer": {
                "learning_rate": 1e-3,
                "group_learning_rates": {"*/lora_?": 3e-3},
                "warmup_steps": 20,
                "decay": "cosine",
                "weight_decay": 0.1,
                "ema_decay": 0.98,
            },
            "training": {
                "num_steps": 200,
                "batch_size": 8,
                "log_every": 20,
                "evaluate_every": 200,
                "checkpoint_every": 100,
                "keep_checkpoints": 2,
            },
            "evaluation": {
                "num_sequences": 32,
                "num_times": 4,
                "num_samples": 8,
                "num_steps": 16,
                "batch_size": 8,
            },
        }
    )
