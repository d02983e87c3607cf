"""Evaluates runs: python -m flexmdm_jax.evaluate --workdir=runs/demo [--workdir=runs/demo_mdm]."""

import contextlib
import itertools
import pathlib

import jax
from absl import flags, logging

from flexmdm_jax import cli, hosts, options
from flexmdm_jax.data.storage.mixtures import open_data
from flexmdm_jax.data.storage.records import Dataset
from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.arithmetic import evaluate_gsm8k
from flexmdm_jax.evaluation.brackets import evaluate_brackets
from flexmdm_jax.evaluation.planning import evaluate_maze
from flexmdm_jax.evaluation.report import format_table
from flexmdm_jax.evaluation.request import Request
from flexmdm_jax.evaluation.text import evaluate_likelihood, evaluate_text
from flexmdm_jax.files import check_writable, json_text, write_atomically
from flexmdm_jax.model import Model, load
from flexmdm_jax.partial import Figures, PartialResults
from flexmdm_jax.ranges import Count, Positive, PositiveOrZero
from flexmdm_jax.training.workdir import check_dataset, load_experiment

_WORKDIR = options.define_path(
    "workdir", None, "A trained run; give several to compare.", several=True
)
_BASE = options.define_path("base", "", "A LLaDA's base folder, if not where the runs had it.")
_mesh = options.define_mesh()
_DATA = options.define_path("data", None, "Prepared dataset; unless told, the first run's own.")
_OUT = options.define_path("out", None, "Folder for results; unless told, the first workdir.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace results that are there.")
_NUM = options.define_number("num", 512, "Samples: texts, strings, or prompts answered.", Count)
_STEPS = options.define_number(
    "steps", [], "Calls of the network for each sample; several for tasks.", Count, several=True
)
_EVENTS = options.define_number(
    "events_per_step", [], "Of adaptive steps; several for tasks.", Positive, several=True
)
_RULE = flags.DEFINE_multi_string(
    "rule", [""], "As for sampling; several for tasks, such as adaptive."
)
_TEMPERATURE = options.define_number(
    "temperature",
    [1.0],
    "Divides logits; 0 takes the likeliest. Several for tasks.",
    PositiveOrZero,
    several=True,
)
_SEQUENCES = options.define_number("num_sequences", 1024, "Held-out sequences to score.", Count)
_TIMES = options.define_number(
    "num_times", 32, "Times per sequence in the likelihood bound.", Count
)
_SEED = options.define_seed("Decides all noise.")
_BATCH = options.define_number("batch_size", 64, "Sequences at a time.", Count)
_BIN = options.define_number("bin_width", 4, "Lengths to a bin, in the picture and the TV.", Count)
_sampling = options.define_sampler_flags()
_join = options.define_process_flags()

_RESULTS = "evaluation.json"
# All that evaluations may draw.
PICTURES = ("lengths.png", "success.png", "path.png", "states.png")
# What a dataset says it is, and the evaluation that fits.
EVALUATIONS = {
    "text": evaluate_text,
    "gsm8k": evaluate_gsm8k,
    "infilling": evaluate_likelihood,
    "maze": evaluate_maze,
    "brackets": evaluate_brackets,
}


def _request() -> Request:
    return Request(
        num=_NUM.value,
        steps=tuple(_STEPS.value),
        events_per_step=tuple(_EVENTS.value),
        rules=tuple(_RULE.value),
        temperatures=tuple(_TEMPERATURE.value),
        num_sequences=_SEQUENCES.value,
        num_times=_TIMES.value,
        bin_width=_BIN.value,
        batch_size=_BATCH.value,
        seed=_SEED.value,
        sampling=_sampling(),
    )


def _load_models(request: Request) -> dict[str, Model]:
    """Returns the models, labelled by their method where that tells them apart."""
    models = {}
    # Among several runs, those of a LLaDA take the base; where there are none, load() refuses it.
    takers = [workdir for workdir in _WORKDIR.value if _BASE.value and _is_llada(workdir)]
    for workdir in _WORKDIR.value:
        base = _BASE.value if workdir in takers or not takers else ""
        model = load(workdir, base, _mesh())
        jax.set_mesh(model.setup.mesh)
        label = {"flexmdm": "FlexMDM", "mdm": "MDM"}[model.experiment.config.method]
        models[label if label not in models else workdir] = model
    options.check_insertions(model.setup.process for model in models.values())
    for model, way in itertools.product(models.values(), request.samplers()):
        model.setup.check_sampler(way.sampler)
    return models


def _check_out(out: pathlib.Path) -> None:
    """Raises UserError if results cannot be written, or others are there and have to stay."""
    there = [name for name in (_RESULTS, *PICTURES) if (out / name).exists()]
    if there and not _OVERWRITE.value:
        raise UserError(
            f"{out / there[0]} exists already; name another folder with --out or pass --overwrite"
        )
    check_writable(out / _RESULTS)


def _open(out: pathlib.Path, models: dict[str, str], dataset: Dataset) -> PartialResults | None:
    """Returns where figures go as they are found: with process 0."""
    if jax.process_index() > 0:
        return None
    made_with = options.settings("out", "overwrite", "workdir", "base", "data") | {
        "models": models,
        "data_sha256": dataset.sha256,
    }
    return PartialResults(out / _RESULTS, made_with, overwrite=_OVERWRITE.value)


def _is_llada(workdir: str) -> bool:
    return load_experiment(pathlib.Path(workdir)).config.model.kind == "llada"


def _check_workdirs() -> None:
    """Raises UserError if a run would be compared with itself."""
    folders = [pathlib.Path(workdir).resolve() for workdir in _WORKDIR.value]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise UserError(f"--workdir={_WORKDIR.value[number]} is given twice; name other runs")


def main(_):
    """Runs the command."""
    logging.set_verbosity(logging.WARNING)
    request = _request()
    _check_workdirs()
    out = pathlib.Path(_OUT.value or _WORKDIR.value[0])
    if _OUT.value or out.is_dir():
        _check_out(out)
    _join()
    hosts.check_agreement({"the command line": options.shared_flags()})
    models = _load_models(request)
    first = next(iter(models.values()))
    source = first.experiment.config.data
    mixture = {} if _DATA.value else source.mixture
    dataset = open_data(_DATA.value or source.path, source.sets, mixture)
    for model in models.values():
        check_dataset(dataset, model.experiment)
    kind = (dataset.task or {"kind": "text"})["kind"]
    if kind not in EVALUATIONS:
        raise UserError(f"{dataset.directory}: no evaluation for the task {kind!r}")
    digests = {label: model.digest() for label, model in models.items()}
    results = hosts.first_process_first(lambda: _open(out, digests, dataset))
    with results or contextlib.nullcontext():
        found = hosts.of_first_process(results.found if results else [])
        keep = results.append if results else lambda _: None
        figures = Figures({label: x for line in found for label, x in line.items()}, keep)
        report = EVALUATIONS[kind](models, dataset, request, figures)
        if results is None:
            return
        for name, data in report.pictures.items():
            write_atomically(out / name, data)
        results.finish((json_text(report.rows, indent=2) + "\n").encode())
    print(format_table(report.rows, report.columns))
    names = (_RESULTS, *report.pictures)
    print(f"results: {', '.join(str(out / name) for name in names)}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir"])
    cli.run(main)
