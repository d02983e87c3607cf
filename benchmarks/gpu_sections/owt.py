"""Training like that of configs/owt.py: tokens a second, of ours and of the baseline in PyTorch."""

import dataclasses
import pathlib
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks.gpu_sections import ceilings
from benchmarks.gpu_sections.section import Context, Row
from benchmarks.gpu_sections.sizes import Training as Size
from benchmarks.length_laws import paragraph_lengths
from benchmarks.random_data import random_dataset
from benchmarks.trainings import PADDED, Ours, Torch, Training
from flexmdm_jax.config import Config, load_config_file, read_config
from flexmdm_jax.data.storage.records import Dataset
from flexmdm_jax.errors import UserError

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "owt.py"


@dataclasses.dataclass(frozen=True)
class Rows:
    """A way to lay out sequences in rows.

    Attributes:
      full: Whether all sequences are as long as can be; they are OpenWebText's if not.
      data: Fields of config.data.
      batch_size: Rows of a batch.
    """

    full: bool
    data: Mapping[str, Any]
    batch_size: int


def layouts(size: Size) -> dict[str, Rows]:
    """Returns the layouts that are measured, by name."""
    return {
        "full": Rows(True, PADDED, size.rows),
        "padded": Rows(False, PADDED, size.rows),
        "bucketed": Rows(False, PADDED | {"buckets": size.buckets}, size.bucketed_rows),
        "packed": Rows(False, size.packed, size.packed_rows),
    }


def config_of(size: Size, rows: Rows, dataset: Dataset, dtype: str) -> Config:
    """Returns the experiment of configs/owt.py with rows of a layout."""
    values = load_config_file(str(CONFIG))
    values.model.update(size.model)
    values.model.compute_dtype = dtype
    values.data.update(path=str(dataset.directory), max_length=size.length)
    with values.data.unlocked():
        values.data.update(rows.data)
    values.training.batch_size = rows.batch_size
    return read_config(values)


def dataset_of(folder: pathlib.Path, size: Size, rows: Rows) -> Dataset:
    """Returns a new dataset of random tokens with the lengths of a layout."""
    lengths = np.array([size.length]) if rows.full else paragraph_lengths()[0]
    return random_dataset(
        folder,
        lengths,
        vocabulary=size.vocabulary,
        max_length=size.length,
        count=size.sequences,
    )


def run(context: Context, *, layout: str) -> Iterator[Row]:
    """Yields tokens a second and memory of training configs/owt.py."""
    size = context.sizes.training
    rows = layouts(size)[layout]
    with tempfile.TemporaryDirectory() as folder:
        dataset = dataset_of(pathlib.Path(folder, "data"), size, rows)
        training = Ours(config_of(size, rows, dataset, "bfloat16"), dataset)
        figures = measure(training, size, dataset, context)
        figures["GB that aot counts"] = training.predicted_megabytes() / 1e3
    yield Row(f"{layout}, {rows.batch_size} rows", figures, note=_memory_note())


def run_torch(context: Context, *, attention: str) -> Iterator[Row]:
    """Yields tokens a second and memory of the same training in PyTorch, on padded rows."""
    size, row = context.sizes.training, f"PyTorch, {attention}, {context.sizes.training.rows} rows"
    import torch

    on_gpu = torch.cuda.is_available()
    if context.sizes.needs_gpu and not on_gpu:
        raise UserError("PyTorch finds no GPU here; its CUDA build is needed")
    if attention == "flex" and not on_gpu:
        yield Row(row, note="needs a GPU: flex_attention has no gradients on a CPU")
        return
    rows = layouts(size)["padded"]
    with tempfile.TemporaryDirectory() as folder:
        dataset = dataset_of(pathlib.Path(folder, "data"), size, rows)
        training = Torch(
            config_of(size, rows, dataset, "bfloat16" if on_gpu else "float32"),
            dataset,
            compiled=on_gpu,
            device="gpu" if on_gpu else "cpu",
            attention=attention,
        )
        note = "" if on_gpu else "no GPU here: eager, in float32, memory of the process"
        yield Row(row, measure(training, size, dataset, context), note=note)


def measure(training: Training, size: Size, dataset: Dataset, context: Context) -> dict[str, float]:
    """Returns the figures of a training, medians over turns."""
    training.turn(size.steps)
    turns = [training.turn(size.steps) for _ in range(size.turns)]
    median = lambda of: statistics.median(map(of, turns))  # noqa: E731
    # The backward pass costs twice the forward pass.
    needed = median(lambda turn: 3 * turn.needed / turn.seconds)
    figures = {
        "x₁ tokens/s": median(lambda turn: turn.sequences * dataset.mean_length / turn.seconds),
        "slots/s": median(lambda turn: turn.slots / turn.seconds),
        "ms a step": median(lambda turn: 1e3 * turn.seconds / turn.steps),
        "needed TFLOP/s": needed / 1e12,
    }
    ceiling = context.figure(ceilings.NAME, ceilings.PRODUCT, "TFLOP/s")
    if ceiling:
        figures["MFU in % of the product"] = 100 * needed / 1e12 / ceiling
    figures["s to compile"] = training.compile_seconds
    return figures | {"peak GB": training.peak_megabytes() / 1e3}


def _memory_note() -> str:
    on_gpu = jax.default_backend() == "gpu"
    return "" if on_gpu else "no GPU here: peak is that of the process"
