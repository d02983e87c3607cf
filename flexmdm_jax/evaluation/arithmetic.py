"""GSM8K: how often the number that a generated answer ends in is the right one."""

import itertools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from flexmdm_jax.data.storage.records import VALIDATION, Dataset, Sequence, read_sequences
from flexmdm_jax.data.tasks.gsm8k import final_number
from flexmdm_jax.evaluation.intervals import success_interval
from flexmdm_jax.evaluation.request import Report, Request, Table, announced
from flexmdm_jax.evaluation.text import held_out_score
from flexmdm_jax.generation.engine import Completions
from flexmdm_jax.model import Model
from flexmdm_jax.partial import Figures
from flexmdm_jax.sampling import SamplerConfig

COLUMNS = {
    "success": "correct",
    "success_low": "95% low",
    "success_high": "95% high",
    "answered": "answered",
    "answer_tokens": "tokens",
    "calls": "calls",
    "truncated": "truncated",
    "nats_per_sequence": "nats/seq",
}


def answer_questions(
    model: Model,
    questions: list[Int[np.ndarray, "_"]],
    sampler: SamplerConfig,
    *,
    batch_size: int,
    seed: int,
) -> tuple[list[Int[np.ndarray, "_"]], Completions]:
    """Returns (token ids of the answers, the rows that hold questions and answers).

    Args:
      model: A trained model.
      questions: Token ids.
      sampler: How to sample.
      batch_size: Questions at a time.
      seed: Decides all noise.
    """

    starts = [model.start(question, [len(question)]) for question in questions]
    rows = model.complete(starts, sampler, batch_size=batch_size, seed=seed)
    answers = [row[len(q) :] for row, q in zip(rows.tokens, questions, strict=True)]
    return answers, rows


def judge_answers(answers: list[str], truth: list[str]) -> dict[str, float]:
    """Returns the share of right answers with its 95% interval, and of those that name a number.

    An answer is right if its final number equals that of the true one.
    """
    numbers = [_value(answer) for answer in answers]
    right = [
        number is not None and number == _value(true)
        for number, true in zip(numbers, truth, strict=True)
    ]
    answered = float(np.mean([number is not None for number in numbers]))
    return success_interval(right) | {"answered": answered}


def _value(answer: str) -> float | None:
    number = final_number(answer)
    return None if number is None else float(number)


def _text(model: Model, tokens: Int[np.ndarray, "_"]) -> str:
    return model.tokenizer.decode(tokens.tolist())


def evaluate_gsm8k(
    models: Mapping[str, Model], dataset: Dataset, request: Request, figures: Figures
) -> Report:
    """Returns the share of held-out questions answered rightly, by model and way of sampling.

    The first request.num questions of the held-out split are asked.
    """
    sequences = list(itertools.islice(read_sequences(dataset, VALIDATION), request.num))
    rows = {}
    for label, model in announced(models):
        score = held_out_score(label, model, dataset, request, figures).summary()
        nats = {name: score[name] for name in ("nats_per_sequence", "nats_per_sequence_error")}
        for way in request.samplers():
            name = f"{label}, {way.name}"
            rows[name] = figures.of(name, _success, model, sequences, way.sampler, request) | nats
    return Report(rows, [Table("", COLUMNS)])


def _success(
    model: Model, sequences: list[Sequence], sampler: SamplerConfig, request: Request
) -> dict[str, float]:
    questions = [s.tokens[s.fixed] for s in sequences]
    truth = [_text(model, s.tokens[:-1][~s.fixed[:-1]]) for s in sequences]
    batch_size, seed = request.batch_size, request.seed
    answers, rows = answer_questions(model, questions, sampler, batch_size=batch_size, seed=seed)
    return {
        **judge_answers([_text(model, answer) for answer in answers], truth),
        "answer_tokens": float(np.mean([len(answer) for answer in answers])),
        **rows.figures(),
    }
