"""The length task: are the strings balanced, and do their lengths follow the known law."""

from collections.abc import Mapping

import numpy as np

from flexmdm_jax.data.records import Dataset
from flexmdm_jax.data.tasks.brackets import LENGTH_LAW, entropy, is_balanced
from flexmdm_jax.evaluation.report import length_histograms
from flexmdm_jax.evaluation.request import Report, Request
from flexmdm_jax.evaluation.text import evaluator_of
from flexmdm_jax.training.runs import Run

COLUMNS = {
    "validity": "balanced",
    "length_tv": "length TV",
    "nats_per_sequence": "nats/seq",
    "truncated": "truncated",
}


def length_law_distance(lengths: np.ndarray) -> float:
    """Returns the total variation between generated lengths and LENGTH_LAW, between 0 and 1."""
    share = np.bincount(lengths) / len(lengths)
    law = np.zeros(max(len(share), max(LENGTH_LAW) + 1))
    law[list(LENGTH_LAW)] = list(LENGTH_LAW.values())
    return float(0.5 * np.abs(np.pad(share, (0, len(law) - len(share))) - law).sum())


def evaluate_brackets(runs: Mapping[str, Run], dataset: Dataset, request: Request) -> Report:
    """Returns validity and length distance for every run and way of sampling.

    The first row is the law itself: its entropy is what the likelihood bound can at best reach.
    """
    rows = {"law": {"validity": 1.0, "length_tv": 0.0, "nats_per_sequence": entropy()}}
    law = np.array(list(LENGTH_LAW.values()))
    lengths = {"law": np.repeat(list(LENGTH_LAW), np.round(100 * law).astype(int))}
    for label, run in runs.items():
        print(f"evaluating {label} after {run.step:,} steps", flush=True)
        score = evaluator_of(run, dataset, request).score(run.params).summary()
        for rule, sampler in request.samplers(run.experiment.config.data.max_length):
            generated = evaluator_of(run, dataset, request, sampler).generate(run.params)
            rows[f"{label}, {rule}, {sampler.steps} steps"] = {
                "validity": float(np.mean([is_balanced(tokens) for tokens in generated.tokens])),
                "length_tv": length_law_distance(generated.lengths),
                "nats_per_sequence": score["nats_per_sequence"],
                "truncated": generated.truncated,
                "steps": sampler.steps,
            }
            # The last way of sampling asked for is the one shown.
            lengths[label] = generated.lengths
    return Report(rows, COLUMNS, {"lengths.png": length_histograms(lengths, request.bin_width)})
