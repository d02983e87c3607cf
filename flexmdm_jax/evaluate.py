"""Evaluates runs: python -m flexmdm_jax.evaluate --workdir=runs/demo [--workdir=runs/demo_mdm].

With --humaneval=FILE on problems of HumanEval infilling instead of the run's own data.
"""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import jax
from absl import flags, logging

from flexmdm_jax import cli, code_options, hosts, options
from flexmdm_jax.data.storage.mixtures import open_data
from flexmdm_jax.data.storage.records import Dataset
from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.arithmetic import evaluate_gold_answers, evaluate_gsm8k
from flexmdm_jax.evaluation.brackets import evaluate_brackets
from flexmdm_jax.evaluation.comparison import labels_of
from flexmdm_jax.evaluation.humaneval import Asker, Candidates, evaluate_gold, evaluate_humaneval
from flexmdm_jax.evaluation.measures import METRICS, chosen_metrics
from flexmdm_jax.evaluation.numbers import evaluate_numbers
from flexmdm_jax.evaluation.planning import evaluate_maze
from flexmdm_jax.evaluation.reference import Reference, open_reference
from flexmdm_jax.evaluation.report import format_tables
from flexmdm_jax.evaluation.request import Report, Request
from flexmdm_jax.evaluation.results import Results
from flexmdm_jax.evaluation.suite import held_out_lengths
from flexmdm_jax.evaluation.text import evaluate_likelihood, evaluate_text
from flexmdm_jax.model import Model, load
from flexmdm_jax.partial import Figures
from flexmdm_jax.ranges import Count, CountOrZero, Positive, PositiveOrZero
from flexmdm_jax.training.workdir import check_dataset, load_experiment

_WORKDIR = options.define_path(
    "workdir", None, "A trained run; give several to compare.", several=True
)
_BASE = options.define_path("base", "", "A LLaDA's base folder, if not where the runs had it.")
_mesh = options.define_mesh()
_DATA = options.define_path("data", None, "Prepared dataset; unless told, the first run's own.")
_OUT = options.define_path("out", None, "Folder for results; unless told, the first workdir.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace results that are there.")
_NUM = options.define_number(
    "num",
    512,
    "Samples: texts, strings, or prompts answered; of GSM8K and --humaneval unless given all.",
    Count,
)
_STEPS = options.define_number(
    "steps", [], "Calls of the network for each sample; several to compare.", Count, several=True
)
_EVENTS = options.define_number(
    "events_per_step", [], "Of adaptive steps; several to compare.", Positive, several=True
)
_RULE = flags.DEFINE_multi_string(
    "rule",
    [""],
    "As for sampling; several to compare, such as adaptive. GSM8K has its own.",
)
_BLOCK = options.define_number(
    "block_length",
    [],
    "MDM fills blocks of so many slots from left to right; 0: no blocks. Several to compare.",
    CountOrZero,
    several=True,
)
_CANVAS = options.define_number(
    "canvas",
    [],
    "Slots that MDM writes on, not all that its rows have; several to compare, for text, GSM8K and "
    "--humaneval.",
    Count,
    several=True,
)
_TEMPERATURE = options.define_number(
    "temperature",
    [],
    "Divides logits; 0 takes the likeliest. Several to compare. Unless told 1, for GSM8K 0.",
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
_METRICS = flags.DEFINE_multi_string(
    "metrics", [], f"Of text: {', '.join(METRICS)}; unless told, all that can be computed."
)
_REFERENCE = options.define_path(
    "reference", "", "An autoregressive model that reads what is written: its folder."
)
_BASELINE = options.define_path(
    "baseline", "", "A run that the others are compared with, on the same examples."
)
_code = code_options.define_code_flags()
_sampling = options.define_sampler_flags()
_keep_programs = options.define_compilation_cache()
_join = options.define_process_flags()

_PROGRAMS = "humaneval.jsonl"
# Flags that say nothing about what is found.
_ASIDE = ("out", "overwrite", "workdir", "base", "data", "humaneval", "workers", "baseline")
# Kinds of data that MDM may be asked to write on other canvases for.
_ON_CANVASES = ("text", "gsm8k")
# What a dataset says it is, and the evaluation that fits.
EVALUATIONS = {
    "text": evaluate_text,
    "gsm8k": evaluate_gsm8k,
    "infilling": evaluate_likelihood,
    "maze": evaluate_maze,
    "brackets": evaluate_brackets,
    "numbers": evaluate_numbers,
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
        metrics=chosen_metrics(_METRICS.value, bool(_REFERENCE.value)),
        block_lengths=tuple(_BLOCK.value),
        canvas=tuple(_CANVAS.value),
    )


def _load_models(request: Request) -> dict[str, Model]:
    """Returns the models, labelled by their method where that tells them apart."""
    opened = []
    # Among several runs, those of a LLaDA take the base; where there are none, load() refuses it.
    takers = [workdir for workdir in _workdirs() if _BASE.value and _is_llada(workdir)]
    for workdir in _workdirs():
        base = _BASE.value if workdir in takers or not takers else ""
        model = load(workdir, base, _mesh())
        jax.set_mesh(model.setup.mesh)
        opened.append(model)
    methods = [model.experiment.config.method for model in opened]
    models = dict(zip(labels_of(_workdirs(), methods), opened, strict=True))
    processes = [model.setup.process for model in models.values()]
    options.check_insertions(processes)
    request.check_fixed(processes)
    for model in models.values():
        for way in request.ways(model.setup.process, model.max_length):
            model.setup.check_sampler(way.sampler)
    return models


def _is_llada(workdir: str) -> bool:
    return load_experiment(pathlib.Path(workdir)).config.model.kind == "llada"


def _workdirs() -> list[str]:
    """Returns the runs to evaluate: those named, and the baseline if it is none of them."""
    named = [pathlib.Path(workdir).resolve() for workdir in _WORKDIR.value]
    baseline = _BASELINE.value
    known = not baseline or pathlib.Path(baseline).resolve() in named
    return [*_WORKDIR.value, *([] if known else [baseline])]


def _label_of_baseline(models: Mapping[str, Model]) -> str:
    """Returns what tables call the baseline, or "" if there is none."""
    if not _BASELINE.value:
        return ""
    folders = [pathlib.Path(workdir).resolve() for workdir in _workdirs()]
    return list(models)[folders.index(pathlib.Path(_BASELINE.value).resolve())]


def _check_workdirs() -> None:
    """Raises UserError if a run is none, or would be compared with itself."""
    folders = [pathlib.Path(workdir).resolve() for workdir in _WORKDIR.value]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise UserError(f"--workdir={_WORKDIR.value[number]} is given twice; name other runs")
    if _BASELINE.value and len(_workdirs()) == 1:
        raise UserError(
            f"--baseline={_BASELINE.value} is the only run; name another one by --workdir"
        )
    # Before the first of them is loaded, which takes longer than to read what they are.
    for workdir in _workdirs():
        load_experiment(pathlib.Path(workdir))


def _num_asked() -> int | None:
    """Returns how many questions or problems are asked for; all of them, if that is not said."""
    return _NUM.value if flags.FLAGS["num"].present else None


def _dataset(models: Mapping[str, Model]) -> Dataset:
    """Returns the dataset that is named, or else the first run's own."""
    source = next(iter(models.values())).experiment.config.data
    mixture = {} if _DATA.value else source.mixture
    dataset = open_data(_DATA.value or source.path, source.sets, mixture)
    for model in models.values():
        check_dataset(dataset, model.experiment)
    return dataset


def _reference() -> Reference | None:
    """Returns the autoregressive model that is named."""
    return open_reference(_REFERENCE.value) if _REFERENCE.value else None


def _refuse_flags_of_text(why: str) -> None:
    """Raises UserError if flags that are for text are given."""
    if _METRICS.value or _REFERENCE.value:
        raise UserError(f"--metrics and --reference are for text, and {why}; leave them out")


def _askers(models: Mapping[str, Model]) -> dict[str, Asker]:
    """Returns what asks the models for code; of an MDM's data the marks are needed."""
    inserts = [model.setup.process.inserts for model in models.values()]
    task = {} if all(inserts) else _dataset(models).task or {}
    return {label: Asker(model, task.get("marks")) for label, model in models.items()}


def _kind_of(dataset: Dataset) -> str:
    """Returns what a dataset says it is."""
    return (dataset.task or {"kind": "text"})["kind"]


def _judge_true_answers() -> None:
    """Reads the true answers of a dataset as a model's are; ends with 1 unless all are right."""
    dataset = open_data(_DATA.value, {}, {})
    kind = _kind_of(dataset)
    if kind != "gsm8k":
        raise UserError(
            f"--gold: {dataset.directory} holds {kind}; prepare gsm8k, or name --humaneval=FILE"
        )
    report, failed = evaluate_gold_answers(dataset)
    print(format_tables(report.rows, report.tables))
    if failed:
        first = failed[0]
        found = first.get("reason") or f"{first['number']} is found, not {first['truth']}"
        cli.exit_with(
            f"{len(failed)} true answers are not found right, that of held-out question "
            f"{first['question'] + 1} first: {found}",
            1,
        )


def _run_canonical_solutions() -> None:
    """Runs the canonical solutions; ends with 1 unless all pass."""
    benchmark, made_with = _code.benchmark(_num_asked())
    lines = _results(_OUT.value).open(_PROGRAMS, made_with) if _OUT.value else None
    with lines or contextlib.nullcontext():
        report, failed = evaluate_gold(benchmark, Candidates.of_results(lines))
        if lines:
            lines.finish()
    print(format_tables(report.rows, report.tables))
    if failed:
        first = failed[0]
        cli.exit_with(
            f"{len(failed)} of {len(benchmark.problems)} canonical solutions do not pass, "
            f"{first['task_id']} first: {first['outcome']}, {first['reason']}",
            1,
        )


def _results(out: str, baseline: str = "") -> Results:
    """Returns the folder of results."""
    settings = options.settings(*_ASIDE)
    return Results(pathlib.Path(out), _OVERWRITE.value, settings, baseline, _SEED.value)


def _evaluate_code(request: Request, out: str) -> None:
    """Evaluates models on problems of HumanEval infilling."""
    benchmark, made_with = _code.benchmark(_num_asked())
    models = _load_models(request)
    askers = _askers(models)
    made_with |= {"models": {label: model.digest() for label, model in models.items()}}
    results = _results(out, _label_of_baseline(models))
    lines = results.open(_PROGRAMS, made_with)

    def evaluate(figures: Figures) -> Report:
        candidates = Candidates.of_results(lines)
        report = evaluate_humaneval(askers, benchmark, request, figures, candidates)
        if lines:
            lines.finish()
        return report

    with lines or contextlib.nullcontext():
        results.write("HumanEval infilling", made_with, evaluate, _PROGRAMS)


def main(_):
    """Runs the command."""
    logging.set_verbosity(logging.WARNING)
    request = _request()
    _code.check(_DATA.value)
    if _code.gold:
        (_run_canonical_solutions if _code.problems else _judge_true_answers)()
        return
    if not _WORKDIR.value:
        raise UserError("--workdir must be given; see --help")
    if _code.problems:
        _refuse_flags_of_text("--humaneval judges programs")
    _check_workdirs()
    out = _OUT.value or _WORKDIR.value[0]
    if _OUT.value or pathlib.Path(out).is_dir():
        _results(out).check(*([_PROGRAMS] if _code.problems else []))
    _join()
    _keep_programs()
    hosts.check_agreement({"the command line": options.shared_flags()})
    if _code.problems:
        _evaluate_code(request, out)
        return
    models = _load_models(request)
    dataset = _dataset(models)
    kind = _kind_of(dataset)
    if kind not in EVALUATIONS:
        raise UserError(f"{dataset.directory}: no evaluation for the task {kind!r}")
    if kind != "text":
        _refuse_flags_of_text(f"{dataset.directory} is of the task {kind!r}")
    if request.canvas and kind not in _ON_CANVASES:
        raise UserError(f"--canvas has no say for {kind}; leave it out")
    digests = {label: model.digest() for label, model in models.items()}
    made_with = {"models": digests, "data_sha256": dataset.sha256}
    request = dataclasses.replace(request, reference=_reference())
    if kind == "gsm8k":
        request = dataclasses.replace(request, num=_num_asked() or len(held_out_lengths(dataset)))
    evaluate = functools.partial(EVALUATIONS[kind], models, dataset, request)
    title = f"{' and '.join(models)} on {dataset.directory.name}"
    _results(out, _label_of_baseline(models)).write(title, made_with, evaluate)


if __name__ == "__main__":
    cli.run(main)
