"""FlexMDM on a 17 x 17 maze with 7 subgoals: the paper's Table 1 in minutes on a laptop."""

from ml_collections import ConfigDict


def get_config(num_subgoals: int = 7) -> ConfigDict:
    name = f"data/maze_small_{num_subgoals}"
    return ConfigDict(
        {
            "method": "flexmdm",
            # Inserted early, unmasked late: how many cells lie between two subgoals is decided
            # before what they are, and most slots have something to learn from.
            "insertion": "sine",
            "unmasking": "polynomial:power=3",
            "model": {
                "hidden_size": 128,
                "num_layers": 2,
                "num_heads": 4,
                "condition_size": 64,
                "compute_dtype": "float32",
                "scan_unroll": 2,
            },
            "data": {
                "path": name,
                "max_length": 56,
                "packing": True,
                "row_length": 64,
                "max_segments": 8,
                "prepare": (
                    "python -m flexmdm_jax.prepare --source=maze:size=17,extra_doors=0.3,"
                    "num_pairs=3000,max_stretch=1.5,validation_fraction=0.1,"
                    f"num_subgoals={num_subgoals} --out={name}"
                ),
            },
            "optimizer": {
                "learning_rate": 3e-3,
                "warmup_steps": 100,
                "decay": "cosine",
                "weight_decay": 0.03,
                "b2": 0.98,
                "ema_decay": 0.995,
            },
            "training": {
                "num_steps": 9_000,
                "batch_size": 21,  # rows, of 63 (12 subgoals) to 75 paths (7)
                "time_warp": 2.0,
                "evaluate_every": 9_000,
                "checkpoint_every": 500,
                "keep_checkpoints": 2,
            },
            "evaluation": {"num_sequences": 128},
        }
    )
