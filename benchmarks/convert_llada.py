"""Prints speed and memory of converting a checkpoint with LLaDA-8B's shapes.

python -m benchmarks.convert_llada --dir=DIR [--layers=2] [--sparse]

Weights are random, or with --sparse zeros in a file that takes no room on the disk. Nothing is left
behind.
"""

import json
import pathlib
import shutil
import struct
import tempfile
import time

import numpy as np
from absl import flags

from benchmarks.memory import peak_megabytes, reset_peak
from flexmdm_jax import cli, options
from flexmdm_jax.conversion.architecture import read_architecture
from flexmdm_jax.conversion.layout import leaves
from flexmdm_jax.conversion.llada import import_model
from flexmdm_jax.errors import UserError
from flexmdm_jax.ranges import Count

_DIR = options.define_path("dir", None, "Where to put a temporary folder.")
_LAYERS = options.define_number("layers", 2, "Of LLaDA-8B's 32.", Count)
_SPARSE = flags.DEFINE_bool("sparse", False, "Zeros that take no room, instead of random numbers.")

CONFIG = {
    "model_type": "llada",
    "block_type": "llama",
    "vocab_size": 126_464,
    "embedding_size": 126_464,
    "d_model": 4096,
    "n_heads": 32,
    "n_kv_heads": 32,
    "mlp_hidden_size": 12_288,
    "rope_theta": 500_000.0,
    "rms_norm_eps": 1e-5,
    "weight_tying": False,
}


def write_source(folder: pathlib.Path, layers: int, sparse: bool) -> tuple[int, int]:
    """Returns (bytes of all tensors, bytes of the largest parameter) of a new model folder."""
    (folder / "config.json").write_text(json.dumps(CONFIG | {"n_layers": layers}))
    header, offset, largest = {}, 0, 0
    for leaf in leaves(read_architecture(folder)):
        start = offset
        for name in leaf.names:
            end = offset + 2 * int(np.prod(leaf.tensor_shape))
            shape = list(leaf.tensor_shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
            offset = end
        largest = max(largest, offset - start)
    text = json.dumps(header).encode()
    rng = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        data = file.tell()
        while not sparse and file.tell() < data + offset:
            # The high halves of float32 numbers are bfloat16 numbers.
            count = min(1 << 24, (data + offset - file.tell()) // 2)
            values = rng.standard_normal(count, np.float32).view(np.uint32) >> 16
            file.write(values.astype(np.uint16).data)
        file.truncate(data + offset)
    return offset, largest


def main(_):
    if not pathlib.Path(_DIR.value).is_dir():
        raise UserError(f"--dir={_DIR.value}: there is no such folder")
    folder = pathlib.Path(tempfile.mkdtemp(dir=_DIR.value))
    try:
        (folder / "source").mkdir()
        size, largest = write_source(folder / "source", _LAYERS.value, _SPARSE.value)
        # That of making the source.
        reset_peak()
        before, began, cpu = peak_megabytes(), time.perf_counter(), time.process_time()
        import_model(folder / "source", folder / "base")
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        kind = "zeros" if _SPARSE.value else "random"
        columns = ["layers", "weights", "GB", "seconds", "MB/s", "CPU s"]
        columns += ["peak MB", "added MB", "largest MB"]
        print("| " + " | ".join(columns) + " |")
        print("| --- " * len(columns) + "|")
        print(
            f"| {_LAYERS.value} | {kind} | {size / 1e9:.2f} | {seconds:.0f} | "
            f"{size / 1e6 / seconds:.0f} | {cpu:.0f} | {peak_megabytes():.0f} | "
            f"{peak_megabytes() - before:.0f} | {largest / 1e6:.0f} |"
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    flags.mark_flag_as_required("dir")
    cli.run(main)
