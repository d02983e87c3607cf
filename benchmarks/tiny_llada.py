"""Writes a LLaDA of 0.3 million random weights in Hugging Face's form, to try a retrofit on.

python -m benchmarks.tiny_llada --out=data/tiny_llada_source
"""

import json
import pathlib

import numpy as np
from absl import flags

from flexmdm_jax import cli, options
from flexmdm_jax.conversion.architecture import read_architecture
from flexmdm_jax.conversion.layout import leaves
from flexmdm_jax.conversion.tensors import write_model
from flexmdm_jax.files import new_folder

_OUT = options.define_path("out", None, "Folder to make; must not hold files yet.")

# Rows for a tokenizer of 1,024 pieces, MASK and END among them.
CONFIG = {
    "model_type": "llada",
    "block_type": "llama",
    "vocab_size": 1024,
    "embedding_size": 1024,
    "d_model": 64,
    "n_layers": 4,
    "n_heads": 4,
    "n_kv_heads": 4,
    "mlp_hidden_size": 128,
    "rope_theta": 500_000.0,
    "rms_norm_eps": 1e-5,
    "weight_tying": False,
}


def main(_):
    rng = np.random.default_rng(0)
    dtype = np.dtype(np.float32)
    with new_folder(pathlib.Path(_OUT.value)) as folder:
        (folder / "config.json").write_text(json.dumps(CONFIG))
        tensors = {}
        for leaf in leaves(read_architecture(folder)):
            for name in leaf.names:
                # Norms are scales about 1, matrices map unit variance to unit variance.
                shape = leaf.tensor_shape
                centre, width = (1.0, 0.0) if len(shape) == 1 else (0.0, shape[-1] ** -0.5)
                values = centre + width * rng.standard_normal(shape, np.float32)
                tensors[name] = (dtype, shape, lambda values=values: [values])
        write_model(folder, tensors, shard_bytes=1 << 30)
    print(_OUT.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("out")
    cli.run(main)
