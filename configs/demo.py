"""FlexMDM on Python's own help texts: minutes on a laptop, nothing to download."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "flexmdm",
            "seed": 0,
            "insertion": "linear",
            "unmasking": "linear",
            "model": {
                "hidden_size": 64,
                "num_layers": 2,
                "num_heads": 4,
                "condition_size": 64,
                "dropout_rate": 0.0,
                "compute_dtype": "float32",
                "remat": "none",
                "scan_unroll": 2,
                "attention": "",
            },
            "data": {
                "path": "data/demo",
                "max_length": 64,
                "prepare": "make data/demo",
            },
            "optimizer": {
                "learning_rate": 6e-3,
                "warmup_steps": 50,
                "decay": "cosine",
                "weight_decay": 0.03,
                "b1": 0.9,
                "b2": 0.98,
                "clip_norm": 1.0,
                "ema_decay": 0.995,
            },
            "training": {
                "num_steps": 1500,
                "batch_size": 64,
                "accumulation_steps": 1,
                "time_warp": 3.0,
                "log_every": 25,
                "evaluate_every": 1500,
                "checkpoint_every": 500,
                "keep_checkpoints": 3,
            },
            "evaluation": {
                "num_sequences": 128,
                "num_times": 4,
                "num_samples": 64,
                "num_steps": 32,
                "batch_size": 64,
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
        }
    )
