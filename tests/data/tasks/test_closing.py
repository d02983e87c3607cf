"""Likelihoods leave out the gaps that samplers close: at t = 0 a row is the sampler's canvas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexmdm_jax.data.batches.rows import arrange_for, clean_rows
from flexmdm_jax.data.storage.records import Sequence
from flexmdm_jax.data.tasks import TASKS
from flexmdm_jax.data.tasks.closing import close_for
from flexmdm_jax.data.tasks.infilling import fix_around_span
from flexmdm_jax.evaluation.maze import prompt_start
from flexmdm_jax.generation.starts import Start
from flexmdm_jax.interpolant import corrupt
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import start_canvas
from flexmdm_jax.types import Batch, Vocabulary

LENGTH = 9
PROCESS = Process(Vocabulary(size=12, mask=10, end=11))


def sequence_of(num, given):
    """Returns a sequence of num tokens and END, of which those in some places are given."""
    tokens = np.append(np.arange(num), PROCESS.vocabulary.end)
    return Sequence(tokens, np.isin(np.arange(num + 1), given))


def at_the_start(kind, sequences):
    """Returns x_t at t = 0."""
    close = close_for({"kind": kind}, PROCESS)
    vocabulary = PROCESS.vocabulary
    fields = clean_rows(sequences, arrange_for(PROCESS), LENGTH, vocabulary, close)
    batch = Batch(index=jnp.arange(len(sequences)), **jax.tree.map(jnp.asarray, fields))
    keys = jax.random.split(jax.random.key(0), len(sequences))
    return corrupt(keys, batch, jnp.zeros((len(sequences), 1)), PROCESS)


def canvas_of(starts):
    """Returns the canvas whose rows these are."""
    rows = [start.canvas(LENGTH, PROCESS.vocabulary.end) for start in starts]
    return jax.tree.map(lambda *x: np.concatenate(x), *rows)


def assert_grows_from(x, canvas):
    np.testing.assert_array_equal(x.tokens, canvas.tokens)
    np.testing.assert_array_equal(x.segment_ids, canvas.segment_ids)
    np.testing.assert_array_equal(x.closed, canvas.closed)
    assert not np.any(x.gaps[np.asarray(x.closed)])


def test_answers_follow_the_whole_question():
    """Also an answer of no tokens, which a closed gap before END would give away."""
    sequences = [sequence_of(5, [0, 1]), sequence_of(3, [0, 1, 2]), sequence_of(4, [0])]
    x = at_the_start("gsm8k", sequences)
    questions = [s.tokens[s.fixed].tolist() for s in sequences]
    starts = [Start.of(question, [len(question)], PROCESS, LENGTH) for question in questions]
    assert_grows_from(x, canvas_of(starts))


@pytest.mark.parametrize("num", [1, 4])
def test_a_span_is_filled_in_between_both_sides(num):
    for index in range(20):
        sequence = fix_around_span(sequence_of(num, []), index, seed=0)
        start, *_, stop = np.flatnonzero(~sequence.fixed[:-1])[[0, -1]] + (0, 1)
        sides = {"prefix": range(start), "suffix": range(stop, num)}
        canvas = start_canvas(1, LENGTH, PROCESS, **{k: tuple(v) for k, v in sides.items()})
        assert_grows_from(at_the_start("infilling", [sequence]), canvas)


def test_paths_run_between_subgoals():
    """Also between two that happen to be neighbours, which nobody is told."""
    sequences = [sequence_of(6, [0, 3, 5]), sequence_of(6, [0, 1, 5]), sequence_of(3, [0, 1, 2])]
    subgoals = [s.tokens[s.fixed] for s in sequences]
    starts = [prompt_start(x, LENGTH, PROCESS, separator=9) for x in subgoals]
    assert_grows_from(at_the_start("maze", sequences), canvas_of(starts))


def test_other_data_and_mdm_close_nothing():
    assert close_for(None, PROCESS) is None
    assert close_for({"kind": "brackets"}, PROCESS) is None
    for kind in TASKS:
        assert close_for({"kind": kind}, Process.mdm(PROCESS.vocabulary)) is None
