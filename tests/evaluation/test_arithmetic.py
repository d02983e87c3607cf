"""GSM8K: questions stay, answers follow, and only the right number counts."""

import dataclasses
import json
import os
import pathlib
from fractions import Fraction

import jax
import numpy as np
import pytest
from untrained import REQUEST, untrained_model

from flexmdm_jax.data.batches.rows import arrange_for
from flexmdm_jax.data.storage.records import VALIDATION, read_sequences
from flexmdm_jax.data.tasks import Gsm8kConfig
from flexmdm_jax.data.tokenizers import ByteTokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.arithmetic import (
    evaluate_gold_answers,
    evaluate_gsm8k,
    figures_of,
    judge,
)
from flexmdm_jax.evaluation.report import format_tables
from flexmdm_jax.evaluation.text import evaluator_of
from flexmdm_jax.files import json_text
from flexmdm_jax.generation.pools import Row
from flexmdm_jax.generation.scoring import Prompted
from flexmdm_jax.generation.starts import Start
from flexmdm_jax.model import Model
from flexmdm_jax.partial import Figures
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import SamplerConfig

TWO_STEPS = dataclasses.replace(REQUEST, steps=(2, 4), rules=("exact_rate",))
LENGTH = 40
DATA = pathlib.Path(os.environ.get("FLEXMDM_DATA_DIR", "")) / "gsm8k"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write(tmp_path_factory.mktemp("gsm8k"), [f"#### {i + 1}" for i in range(3)])


def write(folder, answers):
    """Returns a dataset of questions that take 20, 24, 28, … slots, and their answers."""
    lines = [{"question": f"{'1 + ' * i}1?", "answer": x} for i, x in enumerate(answers)]
    for name in ("train", "test"):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return Gsm8kConfig(str(folder), LENGTH).write(folder / "data", ByteTokenizer({}))


@pytest.mark.parametrize("make", [Process, Process.mdm])
def test_answers_grow_where_training_rows_have_them(dataset, make):
    """At t = 0 a training row holds what is fixed, and for MDM masks: the canvas is the same."""
    sequences = list(read_sequences(dataset, VALIDATION))
    vocabulary = dataset.vocabulary
    process = make(vocabulary)
    for sequence in sequences:
        given = sequence.tokens[sequence.fixed]
        start = Start.of(given, [len(given)], process, LENGTH)
        canvas = start.canvas(LENGTH, vocabulary.end)
        row = arrange_for(process, dataset.task)(sequence, LENGTH, vocabulary)
        question = row.tokens[: sequence.fixed.sum()]
        free = vocabulary.end if process.inserts else vocabulary.mask
        expected = np.pad(question, (0, LENGTH - len(question)), constant_values=free)
        np.testing.assert_array_equal(canvas.tokens[0], expected)
        closed = np.arange(LENGTH) < (len(question) if process.inserts else LENGTH)
        np.testing.assert_array_equal(canvas.closed[0], closed)


@pytest.mark.parametrize("method", ["flexmdm", "mdm"])
def test_every_question_is_answered_and_kept(dataset, method):
    model = untrained_model(dataset, method, LENGTH)
    questions = [s.tokens[s.fixed] for s in read_sequences(dataset, VALIDATION)]
    with jax.set_mesh(model.setup.mesh):
        rows = model.complete(
            [model.start(question, [len(question)]) for question in questions],
            SamplerConfig(steps=3),
            batch_size=2,
            seed=0,
        )
        report, _ = evaluate({"run": model}, dataset, TWO_STEPS)
    assert len(rows.tokens) == len(questions)
    for row, question in zip(rows.tokens, questions, strict=True):
        np.testing.assert_array_equal(row[: len(question)], question)
    assert set(report.rows) == {"run, exact_rate, 2 steps", "run, exact_rate, 4 steps"}
    assert all(figures["success"] == 0 for figures in report.rows.values())
    assert set(report.pictures) == {"success.png"}
    for name, figures in report.rows.items():
        of_run = [sample.told for sample in report.samples if sample.run == name]
        assert [line["question"] for line in of_run] == [0, 1, 2]
        assert {line["truth"] for line in of_run} == {"1", "2", "3"}
        assert figures["answer_tokens"] == np.mean([line["tokens"] for line in of_run])
        assert figures["calls"] == np.mean([line["calls"] for line in of_run])


def evaluate(models, dataset, request, found=()):
    """Returns (the report, what was newly found, as it is kept)."""
    lines = []
    figures = Figures({k: v for line in found for k, v in line.items()}, lines.append)
    return evaluate_gsm8k(models, dataset, request, figures), lines


def answers(lines):
    """Returns the lines of questions among what was found, in the order in which they came."""
    return [line for each in lines for line in each.values() if "question" in line]


def test_what_was_found_is_not_asked_again_and_the_rest_is_the_same(dataset):
    """Whichever rows had been finished: noise belongs to questions, and shapes stay as they are."""
    model = untrained_model(dataset, "flexmdm", LENGTH)
    with jax.set_mesh(model.setup.mesh):
        whole, lines = evaluate({"run": model}, dataset, TWO_STEPS)
        for kept in ([], lines[1:2], lines[:4], lines[::2], lines):
            report, new = evaluate({"run": model}, dataset, TWO_STEPS, kept)
            assert len(kept) + len(new) == len(lines)
            assert all(line in [*kept, *new] for line in lines)
            assert report.rows == whole.rows
            assert report.pictures == whole.pictures
            assert report.samples == whole.samples


END = ByteTokenizer({}).vocabulary.end
# By the slots of the question: wrong, right if flexibly read, right.
RECITED = {20: " #### 2 #### 5", 24: " So it is 2.", 28: " #### 3.00"}


class Reciter(Model):
    """Knows an answer to every question; rows come in another order than they were asked for."""

    def grow(self, jobs, *, batch_size):
        for place, job in reversed(list(enumerate(jobs))):
            given = job.start.tokens[job.start.fixed & (job.start.tokens != END)]
            room = LENGTH - 1 if self.setup.process.inserts else len(job.start.tokens)
            answer = self.tokenizer.encode(RECITED[len(given)])
            tokens = np.array([*given, *answer])[:room]
            fixed = np.arange(len(tokens)) < len(given)
            yield place, Row(tokens, fixed, 4, 0, 0, truncated=False, cut_short=False)


def reciter(dataset, method):
    model = untrained_model(dataset, method, LENGTH)
    return Reciter(**{x.name: getattr(model, x.name) for x in dataclasses.fields(model)})


def test_only_right_answers_count_wherever_they_come(dataset):
    model = reciter(dataset, "flexmdm")
    with jax.set_mesh(model.setup.mesh):
        report, lines = evaluate(
            {"run": model}, dataset, dataclasses.replace(TWO_STEPS, steps=(2,))
        )
    lines = answers(lines)
    assert [line["question"] for line in lines] == [2, 1, 0]
    assert [line["number"] for line in lines] == ["3", None, "5"]
    assert [line["flexible"] for line in lines] == ["3", "2", "5"]
    assert [line["truth"] for line in lines] == ["3", "2", "1"]
    assert [line["right"] for line in lines] == [True, False, False]
    [figures] = report.rows.values()
    assert figures["success"] == pytest.approx(1 / 3)
    assert figures["flexible"] == figures["answered"] == pytest.approx(2 / 3)
    assert figures["success_low"] < 1 / 3 < figures["success_high"]
    assert figures["empty"] == figures["not asked"] == 0
    assert figures["answer_tokens"] == np.mean([len(text) for text in RECITED.values()])


def test_an_mdm_is_asked_on_every_canvas_and_a_flexmdm_once(dataset):
    models = {"FlexMDM": reciter(dataset, "flexmdm"), "MDM": reciter(dataset, "mdm")}
    canvases = (7, 10, 15, 20)
    request = dataclasses.replace(TWO_STEPS, steps=(4,), canvas=canvases)
    with jax.set_mesh(models["MDM"].setup.mesh):
        report, _ = evaluate(models, dataset, request)
    names = [f"MDM, exact_rate, 4 steps, canvas {n}" for n in canvases]
    assert list(report.rows) == ["FlexMDM, exact_rate, 4 steps", *names]
    assert set(report.pictures) == {"success.png", "canvas.png"}
    # Prompts take 20, 24 and 28 slots of 40. Cut after 7 slots, the first answer says " #### 3".
    not_asked = [report.rows[name]["not asked"] for name in names]
    assert not_asked == pytest.approx([0, 0, 1 / 3, 2 / 3])
    assert report.rows[names[0]]["success"] == pytest.approx(1 / 3)
    assert report.rows[names[0]]["truncated"] == 1
    assert report.rows[names[1]]["truncated"] == pytest.approx(1)
    assert report.rows[names[1]]["success"] == pytest.approx(1 / 3)
    of_last = [sample.told for sample in report.samples if sample.run == names[3]]
    assert [line["right"] for line in of_last] == [False] * 3
    reasons = [line["reason"] for line in of_last if "reason" in line]
    assert len(reasons) == 2
    assert "not asked: 28 given tokens and a canvas of 20 slots do not fit" in reasons[1]


def test_answers_are_scored_given_their_questions(dataset):
    """As any sequences are that follow a prompt: untrained gaps inside it cost nothing."""
    model = untrained_model(dataset, "flexmdm", LENGTH)
    sequences = list(read_sequences(dataset, VALIDATION))
    prompted = [Prompted(s.tokens[:-1].tolist(), int(s.fixed.sum())) for s in sequences]
    scorer = model.setup.scorer(REQUEST.num_times, batch_size=8)
    with jax.set_mesh(model.setup.mesh):
        held_out = evaluator_of(model, dataset, REQUEST).score(model.params)
        score = scorer.of_sequences(model.params, prompted, length=LENGTH, seed=REQUEST.seed)
    np.testing.assert_allclose(held_out.nats, score.nats, rtol=1e-4)
    np.testing.assert_allclose(held_out.errors, score.errors, rtol=1e-3)
    assert held_out.tokens.tolist() == score.tokens.tolist() == [7, 7, 7]


def test_shares_count_every_question_and_means_those_that_were_asked():
    asked = {"tokens": 4, "calls": 8, "truncated": True, "cut_short": False, "seed": 0}
    lines = [
        judge("So 4. #### 4.0", Fraction(4)) | asked,
        judge("It is 1,200.", Fraction(1200)) | asked,
        judge(" ", Fraction(7)) | asked | {"tokens": 1, "truncated": False},
        {"truth": "3", "right": False, "flexible_right": False, "reason": "not asked: too long"},
    ]
    figures = figures_of(lines)
    shares = {"success": 1, "flexible": 2, "answered": 1, "not asked": 1}
    assert {name: 4 * figures[name] for name in shares} == shares
    assert figures["empty"] == figures["truncated"] / 2 == pytest.approx(1 / 3)
    assert figures["answer_tokens"] == 3
    assert figures["questions"] == 4
    assert figures["flexible_low"] < 0.5 < figures["flexible_high"]
    none_asked = figures_of(lines[3:])
    assert none_asked["not asked"] == 1
    assert "calls" not in none_asked
    assert json_text(none_asked) == json.dumps(none_asked)


def test_true_answers_are_all_found_right(dataset, tmp_path):
    report, failed = evaluate_gold_answers(dataset)
    assert failed == []
    [figures] = report.rows.values()
    assert figures["success"] == figures["flexible"] == figures["questions"] / 3 == 1
    assert "1.000" in format_tables(report.rows, report.tables)
    spoiled = write(tmp_path, ["#### 1", "#### two", "3"])
    report, failed = evaluate_gold_answers(spoiled)
    assert report.rows["true answers"]["success"] == pytest.approx(1 / 3)
    assert [(line["question"], line["answer"]) for line in failed] == [(1, " #### two"), (2, " 3")]
    model = untrained_model(spoiled, "flexmdm", LENGTH)
    with pytest.raises(
        UserError, match="the answer of held-out question 2: it ends in ' #### two'"
    ):
        evaluate({"run": model}, spoiled, TWO_STEPS)


@pytest.mark.skipif(not DATA.is_dir(), reason="FLEXMDM_DATA_DIR holds no gsm8k")
def test_true_answers_of_the_test_set_are_all_found_right(tmp_path, unchecked):
    data = Gsm8kConfig(str(DATA), 4096).write(tmp_path / "data", ByteTokenizer({}))
    report, failed = evaluate_gold_answers(data)
    [figures] = report.rows.values()
    assert failed == []
    assert figures["questions"] == 1319
    assert figures["success"] == figures["flexible"] == 1
