"""Text: how likely held-out text is, and whether lengths are right."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flexmdm_jax.config import EvaluationConfig
from flexmdm_jax.data.storage.records import VALIDATION, Dataset, read_split
from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.ngrams import ngram_distances
from flexmdm_jax.evaluation.report import COLUMNS, length_histograms
from flexmdm_jax.evaluation.request import Report, Request, announced
from flexmdm_jax.evaluation.suite import Evaluator, data_figures, held_out_lengths
from flexmdm_jax.model import Model
from flexmdm_jax.partial import Figures
from flexmdm_jax.sampling import SamplerConfig


def evaluator_of(
    model: Model, dataset: Dataset, request: Request, sampler: SamplerConfig | None = None
) -> Evaluator:
    """Returns the evaluator of a model that answers a request."""
    config = EvaluationConfig(
        num_sequences=request.num_sequences,
        num_times=request.num_times,
        num_samples=request.num,
        batch_size=request.batch_size,
    )
    return Evaluator(model.setup, dataset, config, model.max_length, request.seed, sampler)


def evaluate_likelihood(
    models: Mapping[str, Model], dataset: Dataset, request: Request, figures: Figures
) -> Report:
    """Returns the likelihood bounds of models alone, for data that is generated around prompts."""
    rows = {}
    for label, model in announced(models):
        rows[label] = figures.of(label, likelihood, model, dataset, request)
    columns = {key: heading for key, heading in COLUMNS.items() if key in rows[label]}
    return Report(rows, columns, {})


def _only_way(request: Request) -> SamplerConfig:
    ways = list(request.samplers())
    if len(ways) != 1:
        raise UserError(
            "text is evaluated in one way of sampling at a time: one --steps or --events_per_step, "
            "one --rule and one --temperature"
        )
    return ways[0].sampler


def likelihood(model: Model, dataset: Dataset, request: Request) -> dict[str, float]:
    """Returns the likelihood bound of held-out sequences, as Score.summary() has it."""
    return evaluator_of(model, dataset, request).score(model.params).summary()


def evaluate_text(
    models: Mapping[str, Model], dataset: Dataset, request: Request, figures: Figures
) -> Report:
    """Returns the likelihood bounds and length distances of models, and their length histograms.

    Raises:
      UserError: If more than one way of sampling is asked for.
    """
    _only_way(request)
    held_out = list(read_split(dataset, VALIDATION))
    texts = [tokens[:-1] for tokens in held_out]
    rows = data_figures(dataset, held_out, request.num_sequences, request.bin_width, request.num)
    lengths = {"held-out data": held_out_lengths(dataset)}
    for label, model in announced(models):
        found = figures.of(label, _answers, model, dataset, texts, request)
        rows[label], lengths[label] = found["figures"], found["lengths"]
    return Report(rows, COLUMNS, {"lengths.png": length_histograms(lengths, request.bin_width)})


def _answers(
    model: Model, dataset: Dataset, texts: Sequence[np.ndarray], request: Request
) -> dict[str, Any]:
    evaluator = evaluator_of(model, dataset, request, _only_way(request))
    figures, generated = evaluator.report(model.params, request.bin_width)
    figures |= ngram_distances(generated.tokens, texts)
    return {"figures": figures, "lengths": generated.lengths.tolist()}
