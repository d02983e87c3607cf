"""FlexMDM on OpenWebText paragraphs (paper, Section 5.1.1 and Appendix F.1)."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "flexmdm",
            "insertion": "linear",
            "unmasking": "linear",
            "model": {
                "hidden_size": 768,
                "num_layers": 12,
                "num_heads": 12,
                "condition_size": 128,
                "dropout_rate": 0.05,
            },
            "data": {
                "path": "data/openwebtext",
                "max_length": 1024,
                # 16 rows hold about the 1,024 sequences of the paper's batch, half inserted.
                "packing": True,
                "row_length": 1408,
                "max_segments": 96,
                "prepare": (
                    "python -m flexmdm_jax.prepare --source=openwebtext --tokenizer=gpt2 "
                    "--tokenizer_dir=PATH/TO/gpt2 --max_length=1024 --out=data/openwebtext"
                ),
            },
            "optimizer": {
                "learning_rate": 3e-4,
                "warmup_steps": 2_000,
                "decay": "constant",
                "weight_decay": 0.03,
                "ema_decay": 0.9999,
            },
            "training": {
                # Section 5.1.1 reports 500k steps; Appendix F.1 allows up to 1M.
                "num_steps": 500_000,
                "batch_size": 16,  # rows, a multiple of the devices
                "evaluate_every": 10_000,
                "checkpoint_every": 5_000,
            },
            "evaluation": {
                "num_sequences": 1024,
                "num_samples": 256,
                "num_steps": 256,
                "batch_size": 256,
            },
            "mesh": {"data": 1, "fsdp": -1, "tensor": 1},
        }
    )
