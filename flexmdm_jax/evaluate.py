"""Evaluates runs: python -m flexmdm_jax.evaluate --workdir=runs/demo [--workdir=runs/demo_mdm]."""

import json
import pathlib

import jax
from absl import flags, logging

from flexmdm_jax import cli
from flexmdm_jax.config import EvaluationConfig
from flexmdm_jax.data.records import Dataset, open_data
from flexmdm_jax.evaluation.report import COLUMNS, format_table, length_histograms
from flexmdm_jax.evaluation.suite import Evaluator, data_figures, held_out_lengths
from flexmdm_jax.files import write_atomically
from flexmdm_jax.training.runs import Run, open_run
from flexmdm_jax.training.workdir import check_dataset

_WORKDIR = flags.DEFINE_multi_string("workdir", None, "A trained run; give several to compare.")
_BASE = flags.DEFINE_string("base", "", "A LLaDA's base folder, if not where the runs had it.")
_DATA = flags.DEFINE_string("data", None, "Prepared dataset; unless told, the first run's own.")
_OUT = flags.DEFINE_string("out", None, "Folder for results; unless told, the first workdir.")
_NUM = flags.DEFINE_integer("num", 512, "Samples for the length distribution.")
_STEPS = flags.DEFINE_integer("steps", 256, "Steps of the sampler.")
_SEQUENCES = flags.DEFINE_integer("num_sequences", 1024, "Held-out sequences to score.")
_TIMES = flags.DEFINE_integer("num_times", 32, "Times per sequence in the likelihood bound.")
_SEED = flags.DEFINE_integer("seed", 0, "Decides all noise.")
_BATCH = flags.DEFINE_integer("batch_size", 64, "Sequences at a time.")
_BIN = flags.DEFINE_integer("bin_width", 4, "Lengths to a bin, in the picture and the TV.")


def _label(run: Run) -> str:
    return {"flexmdm": "FlexMDM", "mdm": "MDM"}[run.experiment.config.method]


def _evaluator(run: Run, dataset: Dataset) -> Evaluator:
    check_dataset(dataset, run.experiment)
    config = EvaluationConfig(
        num_sequences=_SEQUENCES.value,
        num_times=_TIMES.value,
        num_samples=_NUM.value,
        num_steps=_STEPS.value,
        batch_size=_BATCH.value,
    )
    return Evaluator(run.setup, dataset, config, run.experiment.config.data.max_length, _SEED.value)


def main(_):
    """Runs the command."""
    logging.set_verbosity(logging.WARNING)
    cli.require_positive(
        num=_NUM.value,
        steps=_STEPS.value,
        num_sequences=_SEQUENCES.value,
        num_times=_TIMES.value,
        batch_size=_BATCH.value,
        bin_width=_BIN.value,
    )
    runs = {}
    for workdir in _WORKDIR.value:
        run = open_run(workdir, _BASE.value)
        jax.set_mesh(run.setup.mesh)
        label = _label(run) if _label(run) not in runs else workdir
        runs[label] = run
    first = next(iter(runs.values()))
    data = first.experiment.config.data
    dataset = open_data(_DATA.value or data.path, data.sets, {} if _DATA.value else data.mixture)
    rows = data_figures(dataset, _SEQUENCES.value, _BIN.value)
    lengths = {"held-out data": held_out_lengths(dataset)}
    for label, run in runs.items():
        print(f"evaluating {label} after {run.step:,} steps", flush=True)
        rows[label], generated = _evaluator(run, dataset).report(run.params, _BIN.value)
        lengths[label] = generated.lengths
    out = pathlib.Path(_OUT.value or _WORKDIR.value[0])
    write_atomically(out / "evaluation.json", (json.dumps(rows, indent=2) + "\n").encode())
    write_atomically(out / "lengths.png", length_histograms(lengths, _BIN.value))
    print(format_table(rows, COLUMNS))
    print(f"results: {out / 'evaluation.json'}, {out / 'lengths.png'}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir"])
    cli.run(main)
