"""FlexMDM on balanced brackets, whose lengths follow a known law: minutes on a laptop."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "flexmdm",
            "seed": 0,
            # Inserted early, unmasked late: the length is decided before the brackets are, and few
            # tokens are left to insert when the last step comes.
            "insertion": "sine",
            "unmasking": "polynomial:power=3",
            "model": {
                "hidden_size": 64,
                "num_layers": 4,
                "num_heads": 4,
                "condition_size": 64,
                "compute_dtype": "float32",
                "scan_unroll": 4,
            },
            "data": {
                "path": "data/brackets",
                "max_length": 72,
                # The lengths there are, with END; the longest keep some room for insertions.
                "buckets": (17, 33),
                "prepare": (
                    "python -m flexmdm_jax.prepare --source=brackets:num_sequences=100000 "
                    "--out=data/brackets"
                ),
            },
            "optimizer": {
                "learning_rate": 5e-3,
                "warmup_steps": 100,
                "decay": "cosine",
                "weight_decay": 0.03,
                "b2": 0.98,
                "ema_decay": 0.995,
            },
            "training": {
                "num_steps": 12_000,
                "batch_size": 64,
                "time_warp": 2.0,
                "log_every": 100,
                "evaluate_every": 12_000,
                "checkpoint_every": 500,
                "keep_checkpoints": 2,
            },
            "evaluation": {
                "num_sequences": 128,
                "num_times": 8,
                "num_samples": 64,
                "num_steps": 64,
                "batch_size": 64,
            },
        }
    )
