"""LLaDA-8B made a FlexMDM on OpenWebText and Proof-Pile-2, half each (paper, Appendix F.3)."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "flexmdm",
            "insertion": "linear",
            "unmasking": "linear",
            "model": {
                "kind": "llada",
                "hidden_size": 4096,
                "num_layers": 32,
                "num_heads": 32,
                "remat": "full",
                # Sizes left out are LLaDA-8B's.
                "llada": {
                    # python -m flexmdm_jax.convert llada --from=LLaDA-8B-Base --out=data/llada
                    "base": "data/llada",
                    "layers_per_group": 8,
                    "lora": {
                        "rank": 128,
                        "alpha": 128.0,
                        "dropout_rate": 0.1,
                        "targets": "q,k,v,head",
                    },
                },
            },
            "data": {
                "path": "",
                "sets": {"openwebtext": "data/owt_llada", "proofpile": "data/proofpile_llada"},
                "mixture": {"openwebtext": 0.5, "proofpile": 0.5},
                "max_length": 1024,
                "prepare": (
                    "python -m flexmdm_jax.prepare --source=openwebtext:PATH/TO/OPENWEBTEXT "
                    "--tokenizer=hf:data/llada/files --split=document --out=data/owt_llada; the "
                    "same with --source='jsonl:PATH/TO/proof-pile-2/*.jsonl.zst' "
                    "--out=data/proofpile_llada"
                ),
            },
            "optimizer": {
                "learning_rate": 1e-4,
                # Pattern of paths -> rate; the paper has one rate for all.
                "group_learning_rates": {"*/lora_?": 1e-4},
                # The public code warms up for 5% of the steps.
                "warmup_steps": 10_000,
                "decay": "cosine_restarts",
                "num_cycles": 5,
                "weight_decay": 0.1,
                "ema_decay": 0.9999,
            },
            "training": {
                "num_steps": 200_000,
                "batch_size": 64,
                "evaluate_every": 10_000,
                "checkpoint_every": 2_000,
            },
            "evaluation": {"num_sequences": 512, "num_times": 4, "num_steps": 256},
            # The frozen base is spread over all devices; so is every batch.
            "mesh": {"data": 1, "fsdp": -1, "tensor": 1},
        }
    )
