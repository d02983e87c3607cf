"""The length task: are the strings balanced, and do their lengths follow the known law."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flexmdm_jax.data.storage.records import Dataset
from flexmdm_jax.data.tasks.brackets import LENGTH_LAW, entropy, is_balanced, surprise
from flexmdm_jax.evaluation.intervals import success_interval
from flexmdm_jax.evaluation.lengths import total_variation
from flexmdm_jax.evaluation.report import length_histograms
from flexmdm_jax.evaluation.request import Report, Request, Table, announced
from flexmdm_jax.evaluation.text import above_law, evaluator_of, held_out_score
from flexmdm_jax.model import Model
from flexmdm_jax.partial import Figures
from flexmdm_jax.sampling import SamplerConfig

COLUMNS = {
    "validity": "balanced",
    "validity_low": "95% low",
    "validity_high": "95% high",
    "length_tv": "length TV",
    "nats_per_sequence": "nats/seq",
    "excess_nats": "above law",
    "calls": "calls",
    "truncated": "truncated",
}

# Lengths that occur exactly as often as the law says.
LAW_LENGTHS = np.repeat(list(LENGTH_LAW), [round(100 * share) for share in LENGTH_LAW.values()])


def evaluate_brackets(
    models: Mapping[str, Model], dataset: Dataset, request: Request, figures: Figures
) -> Report:
    """Returns validity, with its interval, and length distance for every model and way of sampling.

    The first row is the law itself: its entropy is what the likelihood bound can at best reach.
    """
    law = {"validity": 1.0, "length_tv": 0.0, "nats_per_sequence": entropy(), "excess_nats": 0.0}
    rows = {"law": law}
    lengths = {"law": LAW_LENGTHS}
    for label, model in announced(models):
        score = held_out_score(label, model, dataset, request, figures)
        likelihood = above_law(score, np.array([surprise(int(n)) for n in score.tokens]))
        for way in request.ways(model.setup.process, model.max_length):
            name = f"{label}, {way.name}"
            found = figures.of(name, _validity, model, dataset, request, way.sampler)
            rows[name] = found["figures"] | likelihood
            # The last way of sampling asked for is the one shown.
            lengths[label] = found["lengths"]
    return Report(
        rows, [Table("", COLUMNS)], {"lengths.png": length_histograms(lengths, request.bin_width)}
    )


def _validity(
    model: Model, dataset: Dataset, request: Request, sampler: SamplerConfig
) -> dict[str, Any]:
    generated = evaluator_of(model, dataset, request, sampler).generate(model.params)
    figures = {
        **success_interval([is_balanced(tokens) for tokens in generated.tokens], "validity"),
        "length_tv": total_variation(generated.lengths, LAW_LENGTHS),
        **generated.figures(),
    }
    return {"figures": figures, "lengths": generated.lengths.tolist()}
