"""The demo's task: are the numbers written right, and do their lengths follow the known law."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from flexmdm_jax.data.storage.records import TRAIN, VALIDATION, Dataset, read_split
from flexmdm_jax.data.tasks.numbers import NumbersLaw, number_of, spell
from flexmdm_jax.evaluation.comparison import Examples, Run
from flexmdm_jax.evaluation.intervals import success_interval
from flexmdm_jax.evaluation.lengths import distance_to_law
from flexmdm_jax.evaluation.report import length_histograms
from flexmdm_jax.evaluation.request import Report, Request, Sample, Table, announced
from flexmdm_jax.evaluation.text import above_law, evaluator_of, held_out_score
from flexmdm_jax.model import Model
from flexmdm_jax.partial import Figures
from flexmdm_jax.sampling import SamplerConfig

COLUMNS = {
    "right": "right",
    "right_low": "95% low",
    "right_high": "95% high",
    "new": "right, new",
    "length_tv": "length TV",
    "nats_per_sequence": "nats/seq",
    "excess_nats": "above law",
    "calls": "calls",
}


def evaluate_numbers(
    models: Mapping[str, Model], dataset: Dataset, request: Request, figures: Figures
) -> Report:
    """Returns how many numbers are right, and how far lengths are from the law, for every model.

    The first row is the law: as many draws of it as there are samples say what their lengths and
    the share of new numbers can at best be, its entropy what the likelihood bound can.
    """
    law = NumbersLaw(dataset.task["max_digits"])
    decode = dataset.tokenizer().decode
    known = {decode(tokens[:-1].tolist()) for tokens in read_split(dataset, TRAIN)}
    drawn = [spell(number) for number in law.draw(request.num, np.random.default_rng(request.seed))]
    exact = {"nats_per_sequence": law.entropy(), "excess_nats": 0.0}
    rows = {"law": judge(drawn, law, known) | exact}
    lengths = {"law": _lengths_of_law(law)}
    samples, notes, examples = [], [], {}
    surprises = _surprises(dataset, law, request.num_sequences)
    for label, model in announced(models):
        score = held_out_score(label, model, dataset, request, figures)
        likelihood, examples[Run(label)] = above_law(score, surprises), Examples.of_score(score)
        for way in request.ways(model.setup.process, model.max_length):
            name = f"{label}, {way.name}"
            found = figures.of(name, _written, model, dataset, request, way.sampler)
            rows[name] = judge(found["texts"], law, known) | found["figures"] | likelihood
            # The last way of sampling asked for is the one shown.
            lengths[label] = [len(text.split()) for text in found["texts"]]
            samples += [
                Sample(name, text, {"number": _right(text, law)}) for text in found["texts"]
            ]
            notes += _mistakes(name, found["texts"], law)
    return Report(
        rows,
        [Table("", COLUMNS)],
        {"lengths.png": length_histograms(lengths, request.bin_width)},
        notes=notes,
        samples=samples,
        examples=examples,
    )


def judge(texts: Sequence[str], law: NumbersLaw, known: Collection[str]) -> dict[str, float]:
    """Returns what share of texts is right, with its interval, and how their lengths are.

    Args:
      texts: What was written.
      law: What it should follow.
      known: The texts of the training split.

    Returns:
      right, right_low and right_high; new, the share that is right and not among the known ones;
      and length_tv, to the law and in words.
    """
    right = [_right(text, law) is not None for text in texts]
    new = [good and text not in known for good, text in zip(right, texts, strict=True)]
    lengths = np.array([len(text.split()) for text in texts])
    return {
        **success_interval(right, "right"),
        "new": float(np.mean(new)),
        "length_tv": distance_to_law(lengths, law.lengths()),
    }


def _mistakes(name: str, texts: Sequence[str], law: NumbersLaw, most: int = 3) -> list[str]:
    """Returns a sentence with the first of a way's texts that are not right, if there are any."""
    wrong = [text for text in texts if _right(text, law) is None]
    shown = ", ".join(repr(text) for text in wrong[:most])
    return [f"{name}: {len(wrong)} of {len(texts)} are wrong, such as {shown}"] if wrong else []


def _right(text: str, law: NumbersLaw) -> int | None:
    """Returns the number that a text spells, if the law has it."""
    number = number_of(text)
    return number if number is not None and len(str(number)) <= law.max_digits else None


def _lengths_of_law(law: NumbersLaw, num: int = 100_000) -> np.ndarray:
    """Returns so many lengths that occur as often as the law says, but for rounding."""
    shares = law.lengths()
    return np.repeat(np.arange(len(shares)), np.rint(num * shares).astype(int))


def _surprises(dataset: Dataset, law: NumbersLaw, num: int) -> np.ndarray:
    """Returns -log p of the first held-out numbers, in nats."""
    decode = dataset.tokenizer().decode
    held_out = itertools.islice(read_split(dataset, VALIDATION), num)
    return np.array([law.surprise(number_of(decode(tokens[:-1].tolist()))) for tokens in held_out])


def _written(
    model: Model, dataset: Dataset, request: Request, sampler: SamplerConfig
) -> dict[str, Any]:
    generated = evaluator_of(model, dataset, request, sampler).generate(model.params)
    decode = dataset.tokenizer().decode
    return {
        "texts": [decode(tokens.tolist()) for tokens in generated.tokens],
        "figures": generated.figures(),
    }
