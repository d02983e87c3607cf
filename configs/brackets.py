"""FlexMDM on balanced brackets, whose lengths follow a known law: 70 minutes on a core."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "flexmdm",
            # Inserted early, unmasked late: the length is decided before the brackets are, and few
            # tokens are left to insert when the last step comes.
            "insertion": "sine",
            "unmasking": "polynomial:power=2",
            "model": {
                "hidden_size": 64,
                "num_layers": 8,
                "num_heads": 2,
                "condition_size": 64,
                # A length can be read off the distance from the first slot to END.
                "mark_start": True,
                "compute_dtype": "float32",
                "scan_unroll": 8,
            },
            "data": {
                "path": "data/brackets",
                "max_length": 72,
                "packing": True,
                "max_segments": 16,
                "prepare": (
                    "python -m flexmdm_jax.prepare --source=brackets:num_sequences=100000 "
                    "--out=data/brackets"
                ),
            },
            "optimizer": {
                "learning_rate": 4e-3,
                "warmup_steps": 100,
                "decay": "cosine",
                "weight_decay": 0.03,
                "clip_norm": 10.0,
                "b2": 0.98,
                "ema_decay": 0.995,
            },
            "training": {
                "num_steps": 24_000,
                "batch_size": 18,  # rows, of 64 strings together
                "time_warp": 1.5,
                "evaluate_every": 24_000,
                "checkpoint_every": 500,
                "keep_checkpoints": 2,
            },
            "evaluation": {"num_sequences": 128},
        }
    )
