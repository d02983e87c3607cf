"""GSM8K: questions stay, answers follow, and only the right number counts."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from untrained import REQUEST, untrained_model

from flexmdm_jax.data.batches.rows import arrange_for
from flexmdm_jax.data.storage.records import VALIDATION, read_sequences
from flexmdm_jax.data.tasks import Gsm8kConfig
from flexmdm_jax.data.tokenizers import ByteTokenizer
from flexmdm_jax.evaluation.arithmetic import evaluate_gsm8k, judge_answers
from flexmdm_jax.evaluation.text import evaluator_of
from flexmdm_jax.generation.scoring import Prompted
from flexmdm_jax.generation.starts import Start
from flexmdm_jax.partial import Figures
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import SamplerConfig

TWO_STEPS = dataclasses.replace(REQUEST, steps=(2, 4), rules=("exact_rate",))
LENGTH = 40


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gsm8k")
    lines = [{"question": f"{'1 + ' * i}1?", "answer": f"#### {i + 1}"} for i in range(3)]
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
        report = evaluate_gsm8k({"run": model}, dataset, TWO_STEPS, Figures())
    assert len(rows.tokens) == len(questions)
    for row, question in zip(rows.tokens, questions, strict=True):
        np.testing.assert_array_equal(row[: len(question)], question)
    assert set(report.rows) == {"run, exact_rate, 2 steps", "run, exact_rate, 4 steps"}
    assert all(figures["success"] == 0 for figures in report.rows.values())


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


def test_only_the_final_number_counts():
    truth = ["So 4. #### 4", "#### 1,200", "#### 7", "#### 2"]
    answers = ["It is 5. #### 4.0", "#### 1200", "The answer is 7", "#### 3"]
    figures = judge_answers(answers, truth)
    assert figures["success"] == 0.5
    assert figures["answered"] == 0.75
    assert figures["success_low"] < 0.5 < figures["success_high"]
