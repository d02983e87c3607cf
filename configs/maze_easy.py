"""FlexMDM on the 41 x 41 maze with 2 subgoals (paper, Table 1 and Appendix F.2)."""

from ml_collections import ConfigDict

# 15,000 pairs, 95% of them for training, with about ten paths each, in batches of 256.
STEPS_PER_EPOCH = 553
# Slots of a row, by number of subgoals: 8 of them hold about 256 paths, half inserted.
ROW_LENGTH = {2: 640, 7: 704, 12: 832}


def get_config(num_subgoals: int = 2) -> ConfigDict:
    return ConfigDict(
        {
            "method": "flexmdm",
            "insertion": "linear",
            "unmasking": "linear",
            "model": {
                "hidden_size": 256,
                "num_layers": 8,
                "num_heads": 8,
                "condition_size": 128,
                "dropout_rate": 0.1,
            },
            "data": {
                "path": f"data/maze_{num_subgoals}",
                "max_length": 128,
                "packing": True,
                "row_length": ROW_LENGTH[num_subgoals],
                "prepare": (
                    "python -m flexmdm_jax.prepare "
                    f"--source=maze:size=41,num_subgoals={num_subgoals} "
                    f"--out=data/maze_{num_subgoals}"
                ),
            },
            "optimizer": {
                "learning_rate": 1e-4,
                "warmup_steps": 20 * STEPS_PER_EPOCH,
                "decay": "constant",
                "weight_decay": 0.01,
                "ema_decay": 0.9999,
            },
            "training": {
                "num_steps": 100 * STEPS_PER_EPOCH,
                "batch_size": 8,  # rows
                "evaluate_every": 10 * STEPS_PER_EPOCH,
                "checkpoint_every": 5 * STEPS_PER_EPOCH,
            },
        }
    )
