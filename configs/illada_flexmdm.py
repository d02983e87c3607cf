"""iLLaDA-8B made a FlexMDM, as configs/llada_flexmdm.py does it with LLaDA-8B."""

from ml_collections import ConfigDict

from flexmdm_jax.config import load_config_file


def get_config() -> ConfigDict:
    config = load_config_file(__file__, "llada_flexmdm.py")
    config.model.llada = {
        # python -m flexmdm_jax.convert llada --from=iLLaDA-8B --out=data/illada
        "base": "data/illada",
        "embedding_size": 155_136,
        "mlp_size": 14_336,
        "num_kv_heads": 8,
        "tied": True,
        "layers_per_group": 8,
        # A tied head is the embedding, which stays as it is.
        "lora": {"rank": 128, "alpha": 128.0, "dropout_rate": 0.1, "targets": "q,k,v"},
    }
    # It takes rows of up to 8,192 slots; these are the paper's.
    config.data.max_length = 1024
    config.data.sets = {"openwebtext": "data/owt_illada", "proofpile": "data/proofpile_illada"}
    config.data.prepare = (
        "python -m flexmdm_jax.prepare --source=openwebtext:PATH/TO/OPENWEBTEXT "
        "--tokenizer=hf:data/illada/files --split=document --out=data/owt_illada; the same with "
        "--source='jsonl:PATH/TO/proof-pile-2/*.jsonl.zst' --out=data/proofpile_illada"
    )
    return config
