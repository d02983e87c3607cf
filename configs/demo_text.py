"""FlexMDM on Python's own help texts: minutes on a laptop, nothing to download."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "flexmdm",
            # Inserted early, unmasked late; docs/results.md compares schedules.
            "insertion": "sine",
            "unmasking": "polynomial:power=3",
            "model": {
                "hidden_size": 64,
                "num_layers": 2,
                "num_heads": 4,
                "condition_size": 64,
                "compute_dtype": "float32",
                "scan_unroll": 2,
            },
            "data": {
                "path": "data/demo_text",
                "max_length": 64,
                # Attention on a CPU computes every pair of a row's slots: rows are short.
                "packing": True,
                "prepare": "make data/demo_text",
            },
            "optimizer": {
                "learning_rate": 6e-3,
                "warmup_steps": 50,
                "decay": "cosine",
                "weight_decay": 0.03,
                "b2": 0.98,
                "ema_decay": 0.995,
            },
            "training": {
                "num_steps": 1500,
                "batch_size": 64,  # rows, of 103 sequences together
                "time_warp": 2.0,
                "log_every": 25,
                "evaluate_every": 1500,
                "sample_every": 500,
                "checkpoint_every": 500,
            },
            "evaluation": {"num_sequences": 128, "num_times": 4, "num_steps": 32},
        }
    )
