"""SmolLM2-135M, an autoregressive language model, made a FlexMDM; see docs/smollm2.md."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "flexmdm",
            "insertion": "linear",
            "unmasking": "linear",
            "model": {
                "kind": "llada",
                "hidden_size": 576,
                "num_layers": 30,
                "num_heads": 9,
                "compute_dtype": "float32",
                "llada": {
                    # make smollm2
                    "base": "data/smollm2",
                    "embedding_size": 49_153,
                    "mlp_size": 1536,
                    "num_kv_heads": 3,
                    "rope_theta": 100_000.0,
                    "tied": True,
                    "layers_per_group": 6,
                    # Tokens come from where the model is used to telling them.
                    "told_before": True,
                    "train_mask": True,
                    "lora": {
                        "rank": 32,
                        "alpha": 32.0,
                        "targets": "q,k,v,out,gate,up,down",
                    },
                },
            },
            "data": {
                "path": "",
                "max_length": 128,
                "packing": True,
                "row_length": 256,
                "sets": {"openwebtext": "data/smollm2_owt", "docs": "data/smollm2_docs"},
                "mixture": {"openwebtext": 0.6, "docs": 0.4},
                "prepare": (
                    "python -m flexmdm_jax.prepare --tokenizer=hf:data/smollm2/files "
                    "--max_length=128 --source='jsonl:PATH/TO/OPENWEBTEXT/*.jsonl.gz' "
                    "--out=data/smollm2_owt; the same with --source=stdlib --out=data/smollm2_docs"
                ),
            },
            "optimizer": {
                # Ten times as much unlearns the base in the first forty steps.
                "learning_rate": 3e-5,
                "warmup_steps": 20,
                "decay": "cosine",
                "weight_decay": 0.0,
                "ema_decay": 0.98,
            },
            "training": {
                "num_steps": 1500,
                "batch_size": 4,
                "log_every": 10,
                "evaluate_every": 250,
                "checkpoint_every": 50,
                "keep_checkpoints": 2,
            },
            "evaluation": {
                "num_sequences": 128,
                "num_times": 4,
                "num_samples": 16,
                "num_steps": 64,
                "batch_size": 16,
            },
        }
    )
