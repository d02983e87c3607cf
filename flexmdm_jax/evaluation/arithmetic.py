"""GSM8K: how often the number that a generated answer ends in is the right one."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from flexmdm_jax.data.storage.records import VALIDATION, Dataset, read_sequences
from flexmdm_jax.data.tasks.gsm8k import true_number
from flexmdm_jax.data.tokenizers import Tokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.answers import flexible_number, strict_number
from flexmdm_jax.evaluation.comparison import Examples, Run
from flexmdm_jax.evaluation.curves import Found, Panel, canvas_curves, success_curves
from flexmdm_jax.evaluation.intervals import success_interval
from flexmdm_jax.evaluation.request import (
    NOT_ASKED,
    Report,
    Request,
    Sample,
    Table,
    Usual,
    Way,
    announced,
)
from flexmdm_jax.evaluation.text import held_out_score
from flexmdm_jax.generation.pools import Job, Row
from flexmdm_jax.generation.texts import split_text
from flexmdm_jax.model import Model
from flexmdm_jax.partial import Figures

GOLD = "true answers"
COLUMNS = {
    "success": "correct",
    "success_low": "95% low",
    "success_high": "95% high",
    "flexible": "flexible",
    "answered": "answered",
    "empty": "empty",
    NOT_ASKED: NOT_ASKED,
    "answer_tokens": "tokens",
    "calls": "calls",
    "truncated": "truncated",
    "nats_per_sequence": "nats/seq",
}
Line = dict[str, Any]
# As in the paper (Appendix F.3): the surest masks within a sliding window, γ₁ = 5 and γ₂ = 64; of
# MDM the better of confidence on the whole row and in blocks, as long as in LLaDA's example.
USUAL = Usual(
    flexmdm="adaptive:window_size=64", mdm="adaptive", temperature=0.0, block_lengths=(0, 32)
)


class Question(NamedTuple):
    """A held-out question.

    Attributes:
      number: Its place in the split, from 0; with a seed, the noise of its answers.
      tokens: What is given.
      answer: The true one, as a text.
    """

    number: int
    tokens: Int[np.ndarray, "_"]
    answer: str


def read_questions(dataset: Dataset, num: int | None = None) -> list[Question]:
    """Returns the first held-out questions of a dataset, or all.

    Raises:
      UserError: If there is none.
    """
    tokenizer, questions = dataset.tokenizer(), []
    for number, stored in enumerate(itertools.islice(read_sequences(dataset, VALIDATION), num)):
        tokens, fixed = stored.tokens[:-1], stored.fixed[:-1]
        questions.append(Question(number, tokens[fixed], _answer(tokenizer, tokens, fixed)))
    if not questions:
        raise UserError(f"{dataset.directory} holds no held-out questions; prepare it again")
    return questions


def _answer(tokenizer: Tokenizer, tokens: np.ndarray, given: np.ndarray) -> str:
    """Returns the text that stands behind what is given."""
    [text] = split_text(tokenizer, tokens.tolist(), given.tolist(), [int(np.sum(given))])
    return text


def judge(answer: str, truth: Fraction) -> Line:
    """Returns what an answer says, strictly and flexibly read, and whether that is right."""
    number, flexible = strict_number(answer), flexible_number(answer)
    return {
        "answer": answer,
        "number": _shown(number),
        "flexible": _shown(flexible),
        "truth": str(truth),
        "right": number == truth,
        "flexible_right": flexible == truth,
    }


def _shown(number: Fraction | None) -> str | None:
    return None if number is None else str(number)


def evaluate_gsm8k(
    models: Mapping[str, Model], dataset: Dataset, request: Request, figures: Figures
) -> Report:
    """Returns the share of held-out questions answered rightly, by model and way of sampling.

    The first request.num questions of the held-out split are asked. What the request does not say
    of sampling is USUAL.

    Raises:
      UserError: If a true answer does not end in a number.
    """
    questions = read_questions(dataset, request.num)
    truths = [_truth(question, dataset) for question in questions]
    rows, curves, found, samples, examples = {}, {}, [], [], {}
    for label, model in announced(models):
        score = held_out_score(label, model, dataset, request, figures)
        examples[Run(label)] = Examples.of_score(score)
        nats = {k: v for k, v in score.summary().items() if k.startswith("nats_per_sequence")}
        ways = list(request.ways(model.setup.process, model.max_length, USUAL))
        _say(ways)
        for way in ways:
            name = f"{label}, {way.name}"
            ask = functools.partial(_ask, model, questions, truths, way, request)
            lines = figures.each(f"{name}: answers", len(questions), ask, unit="question")
            rows[name] = figures_of(lines) | nats
            curves.setdefault(f"{label}, {way.curve}", []).append(rows[name])
            found.append(Found(label, way, rows[name]))
            samples += [Sample(name, line.get("answer", ""), _told(line)) for line in lines]
            right = np.array([line["right"] for line in lines])
            examples[Run(label, way.name, way.pace)] = Examples.of_successes(right)
    pictures = {"success.png": success_curves(curves)}
    if request.canvas:
        pictures["canvas.png"] = canvas_curves(found, [Panel("success", "correct (%)")])
    tables = [Table("", COLUMNS)]
    return Report(rows, tables, pictures, samples=samples, examples=examples)


def _told(line: Line) -> Line:
    """Returns what stands beside an answer's text."""
    return {key: value for key, value in line.items() if key != "answer"}


def evaluate_gold_answers(dataset: Dataset) -> tuple[Report, list[Line]]:
    """Returns (the report of all true answers, the lines of those that are not found right).

    They are decoded from the dataset and read as a model's answers are. What is right is read from
    them once more, in another way: as the line that files of GSM8K end in.
    """
    lines = []
    for question in read_questions(dataset):
        line = {"question": question.number, "answer": question.answer, "right": False}
        try:
            line |= judge(question.answer, true_number(question.answer))
        except ValueError as error:
            line |= {"number": None, "flexible_right": False, "reason": str(error)}
        lines.append(line)
    there = ("success", "success_low", "success_high", "flexible", "answered", "empty")
    table = Table("", {name: COLUMNS[name] for name in there})
    report = Report({GOLD: figures_of(lines)}, [table])
    return report, [line for line in lines if not line["right"]]


def _truth(question: Question, dataset: Dataset) -> Fraction:
    try:
        return true_number(question.answer)
    except ValueError as error:
        place = f"{dataset.directory}: the answer of held-out question {question.number + 1}"
        raise UserError(f"{place}: {error}; correct the files and prepare them again") from None


def _say(ways: Sequence[Way]) -> None:
    """Says how a model is sampled, which a request need not."""
    if jax.process_index() == 0:
        kinds = {f"{way.rule} at temperature {way.sampler.temperature:g}": None for way in ways}
        print(f"  {'; '.join(kinds)}", flush=True)


def _ask(
    model: Model,
    questions: Sequence[Question],
    truths: Sequence[Fraction],
    way: Way,
    request: Request,
    missing: Sequence[int],
) -> Iterator[tuple[int, Line]]:
    """Yields (place of a question, its line) for those that have none, as soon as there is one."""
    asked, jobs = [], []
    for place in missing:
        question, given = questions[place], questions[place].tokens
        try:
            start = model.start(given, [len(given)], way.canvas)
        except UserError as error:
            line = {"question": question.number, "truth": str(truths[place]), "right": False}
            yield place, line | {"flexible_right": False, "reason": f"{NOT_ASKED}: {error}"}
            continue
        asked.append(place)
        jobs.append(Job(start, way.sampler, request.seed, question.number))
    # As many rows as if nothing had been found: they are the same to the last bit.
    batch_size = min(request.batch_size, len(questions))
    for number, row in model.grow(jobs, batch_size=batch_size) if jobs else ():
        place = asked[number]
        yield (
            place,
            {
                "question": questions[place].number,
                **judge(_answer(model.tokenizer, row.tokens, row.fixed), truths[place]),
                "tokens": len(row.tokens) - len(questions[place].tokens),
                "calls": row.calls,
                "truncated": _is_truncated(row, jobs[number], model),
                "cut_short": row.cut_short,
            },
        )


def _is_truncated(row: Row, job: Job, model: Model) -> bool:
    """Returns whether an answer had no room: MDM's is one that END found no slot behind."""
    if model.setup.process.inserts:
        return row.truncated
    return len(row.tokens) == len(job.start.tokens)


def figures_of(lines: Sequence[Line]) -> dict[str, float]:
    """Returns shares of questions with 95% intervals, and means over those that were asked.

    A question that could not be asked counts as answered wrongly.

    Args:
      lines: One for each question.
    """
    asked = [line for line in lines if "answer" in line]
    figures = {
        **success_interval([line["right"] for line in lines]),
        **success_interval([line["flexible_right"] for line in lines], "flexible"),
        "questions": float(len(lines)),
        "answered": float(np.mean([line.get("number") is not None for line in lines])),
        NOT_ASKED: float(np.mean(["answer" not in line for line in lines])),
    }
    if asked:
        figures["empty"] = float(np.mean([not line["answer"].strip() for line in asked]))
    means = {"answer_tokens": "tokens", **{x: x for x in ("calls", "truncated", "cut_short")}}
    for name, key in means.items():
        if values := [line[key] for line in asked if key in line]:
            figures[name] = float(np.mean(values))
    return figures
