"""Text: how likely held-out text is, and whether lengths are right."""

from collections.abc import Mapping

from flexmdm_jax.config import EvaluationConfig
from flexmdm_jax.data.storage.records import Dataset
from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.report import COLUMNS, length_histograms
from flexmdm_jax.evaluation.request import Report, Request, announced
from flexmdm_jax.evaluation.suite import Evaluator, data_figures, held_out_lengths
from flexmdm_jax.sampling import SamplerConfig
from flexmdm_jax.training.runs import Run


def evaluator_of(
    run: Run, dataset: Dataset, request: Request, sampler: SamplerConfig | None = None
) -> Evaluator:
    """Returns the evaluator of a run that answers a request."""
    config = EvaluationConfig(
        num_sequences=request.num_sequences,
        num_times=request.num_times,
        num_samples=request.num,
        num_steps=request.steps[0],
        batch_size=request.batch_size,
    )
    length = run.experiment.config.data.max_length
    return Evaluator(run.setup, dataset, config, length, request.seed, sampler)


def evaluate_likelihood(runs: Mapping[str, Run], dataset: Dataset, request: Request) -> Report:
    """Returns the likelihood bounds of runs alone, for data that is generated around prompts."""
    rows = {}
    for label, run in announced(runs):
        rows[label] = evaluator_of(run, dataset, request).score(run.params).summary()
    columns = {key: heading for key, heading in COLUMNS.items() if key in rows[label]}
    return Report(rows, columns, {})


def evaluate_text(runs: Mapping[str, Run], dataset: Dataset, request: Request) -> Report:
    """Returns the likelihood bounds and length distances of runs, and their length histograms.

    Raises:
      UserError: If more than one way of sampling is asked for.
    """
    if any(len(x) != 1 for x in (request.steps, request.rules, request.temperatures)):
        raise UserError("text is evaluated with one --steps, --rule and --temperature at a time")
    rows = data_figures(dataset, request.num_sequences, request.bin_width)
    lengths = {"held-out data": held_out_lengths(dataset)}
    for label, run in announced(runs):
        ((_, sampler),) = request.samplers(run.experiment.config.data.max_length)
        evaluator = evaluator_of(run, dataset, request, sampler)
        rows[label], generated = evaluator.report(run.params, request.bin_width)
        lengths[label] = generated.lengths
    return Report(rows, COLUMNS, {"lengths.png": length_histograms(lengths, request.bin_width)})
