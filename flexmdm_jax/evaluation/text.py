"""Text: how likely held-out text is, and how close what is written comes to it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from flexmdm_jax.config import EvaluationConfig
from flexmdm_jax.data.storage.records import Dataset
from flexmdm_jax.evaluation.comparison import Examples, Run
from flexmdm_jax.evaluation.controls import TEXT, UNIGRAM, make_controls
from flexmdm_jax.evaluation.curves import Found, Panel, calls_curves, canvas_curves
from flexmdm_jax.evaluation.measures import LIKELIHOOD, Measures
from flexmdm_jax.evaluation.report import length_histograms, telling_tables
from flexmdm_jax.evaluation.request import Report, Request, Sample, Way, announced
from flexmdm_jax.evaluation.suite import Evaluator, held_out_lengths, held_out_texts
from flexmdm_jax.evaluation.unigram import unigram_score
from flexmdm_jax.generation.scoring import Score
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


def held_out_score(
    label: str, model: Model, dataset: Dataset, request: Request, figures: Figures
) -> Score:
    """Returns the likelihood bounds of held-out sequences, found batch by batch."""
    evaluator = evaluator_of(model, dataset, request)

    def compute(missing: Sequence[int]) -> Iterator[tuple[int, Any]]:
        for number, batch in enumerate(evaluator.held_out()):
            if number in missing:
                found = evaluator.score(model.params, [batch])
                yield number, [found.nats.tolist(), found.errors.tolist(), found.tokens.tolist()]

    total = min(request.num_sequences, len(held_out_lengths(dataset)))
    count = -(-total // evaluator.batch_size)
    parts = figures.each(f"{label}: bounds", count, compute, unit="batch")
    # What is not finite is null in JSON, and NaN in an array of numbers.
    nats, errors, tokens = (
        np.concatenate([np.array(x, float) for x in part]) for part in zip(*parts, strict=True)
    )
    return Score(nats, errors, tokens.astype(int))


def above_law(score: Score, surprises: Float[np.ndarray, "n"]) -> dict[str, float]:
    """Returns a bound, and how far it lies above what the data's own law gives the same sequences.

    Their mean difference, `excess_nats`, bounds the divergence of the model from the law: one that
    generates with probability ε what the law does not has at least -log(1 - ε). It is free of the
    luck of which sequences were held out, which outweighs it in the bound itself.

    Args:
      score: Of held-out sequences.
      surprises: -log p of each under the law, in nats.
    """
    ones = np.ones(len(score.nats), int)
    excess, error = score.replace(nats=score.nats - surprises).per(ones)
    return {
        "nats_per_sequence": score.per(ones)[0],
        "excess_nats": excess,
        "excess_nats_error": error,
    }


def evaluate_likelihood(
    models: Mapping[str, Model], dataset: Dataset, request: Request, figures: Figures
) -> Report:
    """Returns the likelihood bounds of models alone, for data that is generated around prompts."""
    rows, examples = {}, {}
    for label, model in announced(models):
        score = held_out_score(label, model, dataset, request, figures)
        rows[label], examples[Run(label)] = score.summary(), Examples.of_score(score)
    return Report(rows, telling_tables(rows)[0], examples=examples)


def evaluate_text(
    models: Mapping[str, Model], dataset: Dataset, request: Request, figures: Figures
) -> Report:
    """Returns the likelihood bounds of models and the measures of what they write, with controls.

    Models are measured by every way of sampling asked for; pictures show their lengths, and where
    there are several ways, figures by calls of the network and by the slots that MDM writes on.
    """
    text = held_out_texts(dataset, request.num_sequences)
    measures = _measures(dataset, text, request)
    num_bytes = np.array([len(measures.decode(tokens.tolist()).encode()) for tokens in text])
    rows = _controls(dataset, text, num_bytes, measures, request, figures)
    lengths = {"held-out data": measures.lengths}
    curves, samples, examples, found = {}, [], {}, []
    for label, model in announced(models):
        ways = list(request.ways(model.setup.process, model.max_length))
        likelihood = {}
        if LIKELIHOOD in measures.metrics:
            score = held_out_score(label, model, dataset, request, figures)
            likelihood = _summary(score, num_bytes)
            examples[Run(label)] = Examples.of_score(score)
        for way in ways:
            name = label if len(ways) == 1 else f"{label}, {way.name}"
            written = _written(name, way, model, dataset, request, figures)
            tokens = [np.array(sample["tokens"], int) for sample in written]
            measured = figures.of(f"{name}: measures", measures.of, tokens)
            rows[name] = likelihood | measured | _means(written)
            curves.setdefault(f"{label}, {way.curve}", []).append(rows[name])
            found.append(Found(label, way, rows[name]))
            lengths[name] = np.array([len(x) for x in tokens])
            samples += [Sample(name, measures.decode(x["tokens"]), x) for x in written]
    pictures = {"lengths.png": length_histograms(lengths, request.bin_width)}
    if len(found) > len(models) and (drawn := calls_curves(curves, rows[TEXT])):
        pictures["calls.png"] = drawn
    if request.canvas and (panels := _panels(rows[TEXT])):
        pictures["canvas.png"] = canvas_curves(found, panels)
    tables, notes = telling_tables(rows)
    return Report(rows, tables, pictures, notes, samples, examples)


def _panels(text: Mapping[str, float]) -> list[Panel]:
    """Returns what is drawn by the canvas, with what the control that is text says of it."""
    headings = {
        "length_mean": "mean length (tokens)",
        "length_w1": "lengths: W1 (tokens)",
        "ngram_js_2": "JS of 2-grams (nats)",
    }
    there = {name: heading for name, heading in headings.items() if name in text}
    return [Panel(name, heading, 1.0, text[name]) for name, heading in there.items()]


def _controls(
    dataset: Dataset,
    text: Sequence[np.ndarray],
    num_bytes: np.ndarray,
    measures: Measures,
    request: Request,
    figures: Figures,
) -> dict[str, dict[str, float]]:
    """Returns the rows that stand beside the models."""
    texts, counts = make_controls(dataset, request.num, request.seed)
    rows = {label: figures.of(label, measures.of, some) for label, some in texts.items()}
    if LIKELIHOOD in measures.metrics:
        end = dataset.vocabulary.end
        score = unigram_score(counts, [np.append(tokens, end) for tokens in text], end)
        rows[UNIGRAM] = rows[UNIGRAM] | _summary(score, num_bytes)
    return rows


def _measures(dataset: Dataset, text: Sequence[np.ndarray], request: Request) -> Measures:
    return Measures(
        metrics=request.metrics,
        lengths=held_out_lengths(dataset),
        held_out=text,
        decode=dataset.tokenizer().decode,
        vocabulary_size=dataset.vocabulary.size,
        bin_width=request.bin_width,
        reference=request.reference,
        seed=request.seed,
    )


def _summary(score: Score, num_bytes: np.ndarray) -> dict[str, float]:
    """Returns the figures of a score, per byte of text as well."""
    per_byte, error = score.per(num_bytes)
    return score.summary() | {"nats_per_byte": per_byte, "nats_per_byte_error": error}


def _written(
    name: str, way: Way, model: Model, dataset: Dataset, request: Request, figures: Figures
) -> list[dict[str, Any]]:
    """Returns the samples of a way of sampling, found one by one."""
    evaluator = evaluator_of(model, dataset, request, way.sampler)

    def compute(missing: Sequence[int]) -> Iterator[tuple[int, Any]]:
        for number, row in evaluator.grow(model.params, missing, way.canvas):
            told = {key: getattr(row, key) for key in ("calls", "truncated", "cut_short")}
            yield number, {"sample": number, "tokens": row.tokens.tolist()} | told

    return figures.each(f"{name}: samples", request.num, compute, unit="text")


def _means(written: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    keys = ("calls", "truncated", "cut_short")
    return {key: float(np.mean([sample[key] for sample in written])) for key in keys}
