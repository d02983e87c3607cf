"""Set up before jax is imported: CPU, eight host devices, and shape checks at run time."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

from jaxtyping import install_import_hook

install_import_hook("flexmdm_jax", "beartype.beartype")

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

import copy  # noqa: E402
import pathlib  # noqa: E402
import random  # noqa: E402

import pytest  # noqa: E402

from flexmdm_jax.data.records import Dataset, split_of, write_dataset  # noqa: E402
from flexmdm_jax.data.tokenizers import ByteTokenizer  # noqa: E402

TINY_LENGTH = 24


def tiny_texts(count: int = 200) -> list[str]:
    """Texts of 1 to 20 letters that are easy to tell apart and to learn."""
    source = random.Random(0)
    return ["".join(source.choices("abc ", k=source.randint(1, 20))) for _ in range(count)]


def write_tiny_dataset(directory: pathlib.Path, texts: list[str]) -> Dataset:
    tokenizer = ByteTokenizer({})
    sequences = ((split_of(text, 0, 0.2), tokenizer.encode(text)) for text in texts)
    return write_dataset(directory, sequences, tokenizer, max_length=TINY_LENGTH, origin={})


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory) -> Dataset:
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", tiny_texts())


_TINY = {
    "method": "flexmdm",
    "seed": 3,
    "insertion": "linear",
    "unmasking": "linear",
    "model": {
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "condition_size": 8,
        "dropout_rate": 0.1,
        "compute_dtype": "float32",
    },
    "data": {"path": "", "max_length": TINY_LENGTH},
    "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2, "weight_decay": 0.1, "ema_decay": 0.9},
    "training": {
        "num_steps": 10,
        "batch_size": 8,
        "log_every": 2,
        "evaluate_every": 1000,
        "checkpoint_every": 5,
    },
    "evaluation": {
        "num_sequences": 8,
        "num_times": 2,
        "num_samples": 8,
        "num_steps": 4,
        "batch_size": 8,
    },
}


@pytest.fixture
def tiny_config(tiny_dataset) -> dict:
    """A config as nested dicts, the test's own copy."""
    config = copy.deepcopy(_TINY)
    config["data"]["path"] = str(tiny_dataset.directory)
    return config
