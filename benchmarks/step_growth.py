"""How the cost of our training step grows with length, vocabulary and model size.

python -m benchmarks.step_growth [--plot=docs/step_growth.png]

Tokens are random, and as many to a sequence as paragraphs of OpenWebText have (length_laws.py), cut
to the length of a row. One size grows, the others stay as in BASE. Prints a table, draws a plot of
each. "Needed" is what the FLOPs over slots that hold a token would cost at the price that they have
in the packed rows of the first point.
"""

import dataclasses
import os
import pathlib
import statistics
import tempfile
from collections.abc import Mapping

import jax
import numpy as np
from absl import flags

from benchmarks.length_laws import paragraph_lengths
from benchmarks.random_data import random_dataset
from benchmarks.trainings import LAYOUTS, Layout, Ours, num_threads
from flexmdm_jax import cli, options
from flexmdm_jax.config import Config, read_config
from flexmdm_jax.data.storage.records import Dataset
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import check_writable, png_of, write_atomically
from flexmdm_jax.ranges import Count

ROWS, LAYERS, HEAD_SIZE, STEPS, SEQUENCES = 16, 2, 32, 4, 1024


@dataclasses.dataclass(frozen=True)
class Point:
    """What is measured.

    Attributes:
      length: Slots of a row.
      vocabulary: Token ids.
      hidden: Features of the model.
    """

    length: int
    vocabulary: int
    hidden: int


BASE = Point(length=128, vocabulary=400, hidden=128)
GROWING = {
    "length": (64, 128, 256, 512, 1024),
    "vocabulary": (400, 2_000, 10_000, 50_000),
    "hidden": (64, 128, 256, 512),
}
LABELS = {"length": "row length", "vocabulary": "vocabulary", "hidden": "hidden size"}
# Buckets would compile a program for each of many lengths.
MEASURED = tuple(layout for layout in LAYOUTS if layout.name != "bucketed")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a useful token, one of x₁.

    Attributes:
      seconds: Of the step.
      flops: That the forward pass needs.
    """

    seconds: float
    flops: float


def config_of(point: Point, dataset: Dataset) -> Config:
    """Returns the experiment of a point."""
    return read_config(
        {
            "method": "flexmdm",
            "model": {
                "hidden_size": point.hidden,
                "num_layers": LAYERS,
                "num_heads": point.hidden // HEAD_SIZE,
                "compute_dtype": "float32",
                "scan_unroll": LAYERS,
            },
            "data": {"path": str(dataset.directory), "max_length": point.length},
            "optimizer": {"learning_rate": 1e-3},
            "training": {"num_steps": 10_000, "batch_size": ROWS},
        }
    )


def dataset_of(folder: pathlib.Path, point: Point, lengths: np.ndarray) -> Dataset:
    """Returns a new dataset of random tokens for a point."""
    return random_dataset(
        folder,
        lengths,
        vocabulary=point.vocabulary,
        max_length=point.length,
        count=SEQUENCES,
    )


def measure(point: Point, layout: Layout, dataset: Dataset, repetitions: int) -> Cost:
    """Returns what a useful token costs: the median over turns of STEPS steps."""
    training = Ours(layout.config(config_of(point, dataset)), dataset)
    training.turn(STEPS)
    turns = [training.turn(max(STEPS, layout.steps)) for _ in range(repetitions)]
    tokens = lambda turn: turn.sequences * dataset.mean_length  # noqa: E731
    return Cost(
        seconds=statistics.median(turn.seconds / tokens(turn) for turn in turns),
        flops=sum(turn.needed for turn in turns) / sum(map(tokens, turns)),
    )


def grow(axis: str, lengths: np.ndarray, repetitions: int) -> dict[str, list[Cost]]:
    """Returns the costs of each layout along an axis of GROWING, and prints them."""
    names = [layout.name for layout in MEASURED]
    print(f"\n| {LABELS[axis]} | " + " | ".join(f"{name}, µs a token" for name in names), end="")
    print(" | needed kFLOP a token |\n| ---: |" + " ---: |" * (len(names) + 1), flush=True)
    costs = {name: [] for name in names}
    for value in GROWING[axis]:
        point = dataclasses.replace(BASE, **{axis: value})
        with tempfile.TemporaryDirectory() as folder:
            dataset = dataset_of(pathlib.Path(folder, "data"), point, lengths)
            for layout in MEASURED:
                costs[layout.name].append(measure(point, layout, dataset, repetitions))
                jax.clear_caches()
        cells = [f"{costs[name][-1].seconds * 1e6:,.1f}" for name in names]
        needed = costs[names[0]][-1].flops / 1e3
        print(f"| {value:,} | " + " | ".join(cells) + f" | {needed:,.0f} |", flush=True)
    return costs


def draw(costs: Mapping[str, Mapping[str, list[Cost]]]) -> bytes:
    """Returns the plots as a PNG, one for each axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, plots = plt.subplots(1, len(costs), figsize=(11, 3.8), layout="constrained")
    for plot, (axis, layouts) in zip(plots, costs.items(), strict=True):
        values = GROWING[axis]
        for name, found in layouts.items():
            plot.plot(values, [cost.seconds * 1e6 for cost in found], "o-", label=name)
        packed = layouts["packed"]
        price = packed[0].seconds / packed[0].flops
        needed = [cost.flops * price * 1e6 for cost in packed]
        plot.plot(values, needed, "k--", label="needed")
        plot.set(xscale="log", yscale="log", xlabel=LABELS[axis], ylabel="µs per useful token")
        plot.set_xticks(values, [f"{value:,}" for value in values], minor=False)
        plot.xaxis.minorticks_off()
        plot.grid(alpha=0.3)
        plot.legend()
    png = png_of(figure)
    plt.close(figure)
    return png


def define_flags() -> None:
    """Defines what main() reads."""
    options.define_path("plot", "docs/step_growth.png", "The file to draw.")
    options.define_number("repetitions", 5, f"Turns of {STEPS} steps.", Count)


def main(_):
    """Prints the tables and draws the plots."""
    jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS") or "cpu")
    path = pathlib.Path(flags.FLAGS.plot)
    if path.is_dir():
        raise UserError(f"--plot={path} is a folder; name a file")
    check_writable(path)
    lengths, law = paragraph_lengths()
    print(
        f"{LAYERS} layers of {BASE.hidden}, {BASE.vocabulary} ids, {ROWS} rows of {BASE.length} "
        f"unless they grow; float32, {num_threads()} cores; lengths: {law}"
    )
    costs = {axis: grow(axis, lengths, flags.FLAGS.repetitions) for axis in GROWING}
    write_atomically(path, draw(costs))


if __name__ == "__main__":
    define_flags()
    cli.run(main)
