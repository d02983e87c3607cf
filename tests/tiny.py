"""A dataset and a config small enough to train in a test."""

import copy
import pathlib
import random

from flexmdm_jax.data.storage import records
from flexmdm_jax.data.tokenizers import ByteTokenizer

LENGTH = 24

_CONFIG = {
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
    "data": {"path": "", "max_length": LENGTH},
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


def texts(count: int = 200) -> list[str]:
    """Texts of 1 to 20 letters that are easy to tell apart and to learn."""
    source = random.Random(0)
    return ["".join(source.choices("abc ", k=source.randint(1, 20))) for _ in range(count)]


def write_dataset(directory: pathlib.Path, documents: list[str]) -> records.Dataset:
    tokenizer = ByteTokenizer({})
    split = lambda text: records.split_of(text, 0, 0.2)  # noqa: E731
    sequences = ((split(text), tokenizer.encode(text)) for text in documents)
    return records.write_dataset(directory, sequences, tokenizer, max_length=LENGTH, origin={})


def config_at(directory: pathlib.Path) -> dict:
    """Returns a config for the dataset in a directory as nested dicts, the caller's own copy."""
    values = copy.deepcopy(_CONFIG)
    values["data"]["path"] = str(directory)
    return values


def config(dataset: records.Dataset) -> dict:
    return config_at(dataset.directory)
