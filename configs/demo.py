"""FlexMDM on whole numbers in English words: minutes on one core, nothing to download."""

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
                "num_layers": 3,
                "num_heads": 4,
                "condition_size": 64,
                # A place can be read off the distance from the first slot.
                "mark_start": True,
                "compute_dtype": "float32",
                "scan_unroll": 3,
            },
            "data": {
                "path": "data/demo",
                # The longest number has nine words; a text that goes wrong may need more.
                "max_length": 14,
                # Attention on a CPU computes every pair of a row's slots: rows are short.
                "packing": True,
                "row_length": 16,
                "max_segments": 8,
                "prepare": "make data/demo",
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
                "num_steps": 2200,
                "batch_size": 48,  # rows, of 170 numbers together
                "time_warp": 2.0,
                "log_every": 25,
                # Evaluated once, by make demo: compiling what evaluates takes as long as 300 steps.
                "evaluate_every": 0,
                "sample_every": 0,
                "checkpoint_every": 1100,
            },
        }
    )
