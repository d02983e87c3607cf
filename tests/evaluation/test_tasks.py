"""Evaluations of the tasks end to end, and the distance to the law of lengths."""

import dataclasses
import itertools
import math

import jax
import numpy as np
import pytest
import tiny
from pictures import assert_shows_something
from untrained import REQUEST, untrained_model

from flexmdm_jax.data.storage.records import VALIDATION, read_sequences
from flexmdm_jax.data.tasks import BracketsConfig, MazeConfig, NumbersConfig
from flexmdm_jax.data.tasks.brackets import LENGTH_LAW, entropy
from flexmdm_jax.data.tasks.numbers import NumbersLaw, spell
from flexmdm_jax.evaluation.brackets import LAW_LENGTHS, evaluate_brackets
from flexmdm_jax.evaluation.lengths import distance_to_law, total_variation
from flexmdm_jax.evaluation.maze import Maze
from flexmdm_jax.evaluation.numbers import evaluate_numbers
from flexmdm_jax.evaluation.numbers import judge as judge_numbers
from flexmdm_jax.evaluation.planning import evaluate_maze, judge
from flexmdm_jax.evaluation.text import above_law, evaluate_text
from flexmdm_jax.generation.engine import Completions
from flexmdm_jax.generation.scoring import Score
from flexmdm_jax.partial import Figures


def test_length_distance_by_hand():
    exact = np.repeat(list(LENGTH_LAW), [1, 4, 4, 1])
    np.testing.assert_allclose(total_variation(exact, LAW_LENGTHS), 0, atol=1e-12)
    np.testing.assert_allclose(total_variation(np.full(3, 16), LAW_LENGTHS), 0.6)
    np.testing.assert_allclose(total_variation(np.array([5, 90]), LAW_LENGTHS), 1.0)


@pytest.mark.filterwarnings("error")
def test_a_bound_lies_above_the_law_by_their_mean_difference():
    score = Score(np.array([5.0, 9.0, 4.0]), np.zeros(3), np.array([2, 4, 2]))
    figures = above_law(score, np.array([4.0, 6.0, 2.0]))
    assert figures["nats_per_sequence"] == pytest.approx(6)
    assert figures["excess_nats"] == pytest.approx(2)
    assert figures["excess_nats_error"] == pytest.approx(1 / math.sqrt(3))
    # Of a single sequence no error can be told, and nothing is said of degrees of freedom.
    alone = above_law(Score(np.array([5.0]), np.zeros(1), np.array([2])), np.array([4.0]))
    assert alone["excess_nats"] == 1
    assert math.isnan(alone["excess_nats_error"])


def test_true_paths_solve_every_prompt(tmp_path):
    dataset = MazeConfig(size=9, num_pairs=100, num_subgoals=4, validation_fraction=0.3).write(
        tmp_path / "m"
    )
    sequences = list(read_sequences(dataset, VALIDATION))
    prompts = np.stack([sequence.tokens[sequence.fixed] for sequence in sequences])
    paths = [sequence.tokens[:-1] for sequence in sequences]
    truncated, calls = np.zeros(len(paths), bool), np.ones(len(paths), int)
    solutions = Completions(paths, truncated, truncated, calls)
    figures = judge(Maze.of(dataset.task), prompts, solutions)
    assert figures["success"] == figures["valid"] == 1
    assert figures["connected"] == figures["visits"] == figures["arrives"] == 1
    assert figures["cells"] == np.mean([len(path) for path in paths])
    # Each prompt with the path of the next: valid cells that join something else.
    other = Completions(paths[1:] + paths[:1], truncated, truncated, calls)
    figures = judge(Maze.of(dataset.task), prompts, other)
    assert figures["valid"] == figures["connected"] == 1
    assert figures["visits"] == figures["success"]
    assert figures["success"] < 0.5


def test_maze_evaluation_reports_every_way_of_sampling(tmp_path):
    dataset = MazeConfig(size=7, num_pairs=60, num_subgoals=3, validation_fraction=0.2).write(
        tmp_path / "m"
    )
    runs = {
        "FlexMDM": untrained_model(dataset, "flexmdm", 24),
        "MDM": untrained_model(dataset, "mdm", 24),
    }
    with jax.set_mesh(runs["MDM"].setup.mesh):
        report = evaluate_maze(runs, dataset, REQUEST, Figures())
    data, *generated = report.rows.values()
    paths = [sequence.tokens[:-1] for sequence in read_sequences(dataset, VALIDATION)]
    assert data == {"cells": np.mean([len(path) for path in paths])}
    assert len(generated) == 4
    assert "MDM, adaptive:confidence=margin, 2 steps" in report.rows
    for figures in generated:
        assert figures["success_low"] <= figures["success"] <= figures["success_high"]
    assert set(report.pictures) == {"success.png", "path.png", "states.png"}
    for png in report.pictures.values():
        assert_shows_something(png)


def test_brackets_evaluation_knows_the_law(tmp_path):
    dataset = BracketsConfig(num_sequences=60, validation_fraction=0.3).write(tmp_path / "b")
    runs = {"FlexMDM": untrained_model(dataset, "flexmdm", 72)}
    request = dataclasses.replace(REQUEST, rules=("exact_rate",), temperatures=(1.0, 0.5))
    with jax.set_mesh(runs["FlexMDM"].setup.mesh):
        report = evaluate_brackets(runs, dataset, request, Figures())
    assert len(report.rows) == 3
    assert report.rows["law"]["nats_per_sequence"] == entropy()
    # No model can be better than the law, but for the noise of a few strings.
    figures = report.rows["FlexMDM, exact_rate, temperature 1, 2 steps"]
    cooler = report.rows["FlexMDM, exact_rate, temperature 0.5, 2 steps"]
    assert cooler["nats_per_sequence"] == figures["nats_per_sequence"]
    assert figures["nats_per_sequence"] > entropy() / 2
    scored = itertools.islice(read_sequences(dataset, VALIDATION), REQUEST.num_sequences)
    known = {4: 2, 16: 1430, 32: 35_357_670, 64: 55_534_064_877_048_198}  # Catalan numbers
    lengths = [len(sequence.tokens) - 1 for sequence in scored]
    best = np.mean([math.log(known[length] / LENGTH_LAW[length]) for length in lengths])
    np.testing.assert_allclose(figures["excess_nats"], figures["nats_per_sequence"] - best)
    assert figures["excess_nats_error"] > 0
    assert_shows_something(report.pictures["lengths.png"])


def test_distance_to_a_law_by_hand():
    law = np.array([0.0, 0.5, 0.25, 0.25])
    np.testing.assert_allclose(distance_to_law(np.array([1, 1, 2, 3]), law), 0, atol=1e-12)
    np.testing.assert_allclose(distance_to_law(np.array([1, 1, 1, 1]), law), 0.5)
    np.testing.assert_allclose(distance_to_law(np.array([1, 7]), law), 0.5)
    np.testing.assert_allclose(distance_to_law(np.array([0]), law), 1.0)


def test_numbers_are_judged_by_hand():
    law = NumbersLaw(3)
    texts = ["one", "one hundred and two", "hundred two", "one thousand", "", "seven", "one"]
    figures = judge_numbers(texts, law, {"one"})
    # A thousand is a number, and none of three digits.
    np.testing.assert_allclose(figures["right"], 4 / 7)
    np.testing.assert_allclose(figures["new"], 2 / 7)
    assert figures["right_low"] < figures["right"] < figures["right_high"]
    # 1 / 3 and 9 / 900 / 3 of the law's numbers have one word or two, all others four.
    shares = np.array([0, 2 / 3, 0.01 / 3, 0, 0.99 / 3])
    found = np.array([1, 3, 2, 0, 1]) / 7
    np.testing.assert_allclose(figures["length_tv"], np.abs(found - shares).sum() / 2)


def test_numbers_evaluation_knows_the_law(tmp_path):
    config = NumbersConfig(num_sequences=80, max_digits=3, validation_fraction=0.3)
    dataset = config.write(tmp_path / "n")
    model = untrained_model(dataset, "flexmdm", 8)
    request = dataclasses.replace(REQUEST, rules=("exact_rate",), temperatures=(1.0, 0.5))
    with jax.set_mesh(model.setup.mesh):
        report = evaluate_numbers({"FlexMDM": model}, dataset, request, Figures())
    law, warm, cool = report.rows.values()
    assert (law["right"], law["excess_nats"]) == (1, 0)
    assert law["nats_per_sequence"] == NumbersLaw(3).entropy()
    assert cool["nats_per_sequence"] == warm["nats_per_sequence"]
    scored = itertools.islice(read_sequences(dataset, VALIDATION), REQUEST.num_sequences)
    by_text = {spell(number): number for number in range(1, 1000)}
    decode = dataset.tokenizer().decode
    digits = [len(str(by_text[decode(x.tokens[:-1].tolist())])) for x in scored]
    best = np.mean([math.log(3 * 9 * 10 ** (n - 1)) for n in digits])
    np.testing.assert_allclose(warm["excess_nats"], warm["nats_per_sequence"] - best)
    assert warm["excess_nats_error"] > 0
    told = dict(note.split(": ", 1) for note in report.notes)
    for name, figures in list(report.rows.items())[1:]:
        own = [x.text for x in report.samples if x.run == name]
        assert len(own) == REQUEST.num
        assert figures["right"] == np.mean([text in by_text for text in own])
        wrong = [text for text in own if text not in by_text]
        if wrong:
            beginning = f"{len(wrong)} of {len(own)} are wrong, such as {wrong[0]!r}"
            assert told.pop(name).startswith(beginning)
    assert not told
    assert_shows_something(report.pictures["lengths.png"])


def test_text_is_measured_by_every_way_of_sampling(tiny_dataset):
    model = untrained_model(tiny_dataset, "flexmdm", tiny.LENGTH)
    request = dataclasses.replace(REQUEST, steps=(2, 3), rules=("exact_rate",), num=6)
    kept = []
    with jax.set_mesh(model.setup.mesh):
        report = evaluate_text({"A": model}, tiny_dataset, request, Figures(keep=kept.append))
    names = ["A, exact_rate, 2 steps", "A, exact_rate, 3 steps"]
    assert list(report.rows) == ["data", "shuffled", "unigram", *names]
    assert set(report.pictures) == {"lengths.png", "calls.png"}
    for name in names:
        own = [x for x in report.samples if x.run == name]
        figures = report.rows[name]
        assert len(own) == figures["texts"] == 6
        assert figures["length_mean"] == np.mean([len(x.told["tokens"]) for x in own])
        assert figures["calls"] == np.mean([x.told["calls"] for x in own])
        assert figures["nats_per_byte"] >= figures["nats_per_token"], "bytes are its tokens"
    # The eight sequences of the bound are one batch, found once for both ways.
    bounds = [x for line in kept for label, x in line.items() if label.startswith("A: bounds")]
    assert len(bounds) == 1
    nats, _, tokens = (np.array(x) for x in bounds[0])
    assert figures["nats_per_sequence"] == pytest.approx(nats.mean())
    assert figures["nats_per_token"] == pytest.approx(nats.sum() / tokens.sum())
    # A rerun takes all from what was kept.
    found = Figures({label: x for line in kept for label, x in line.items()}, kept.append)
    before = len(kept)
    again = evaluate_text({"A": model}, tiny_dataset, request, found)
    assert len(kept) == before
    assert again.rows == report.rows


def test_what_is_not_measured_is_not_drawn(tiny_dataset):
    model = untrained_model(tiny_dataset, "mdm", tiny.LENGTH)
    request = dataclasses.replace(REQUEST, steps=(2, 3), rules=("exact_rate",), canvas=(4, 16))
    request = dataclasses.replace(request, metrics=("likelihood",), num=2)
    with jax.set_mesh(model.setup.mesh):
        report = evaluate_text({"MDM": model}, tiny_dataset, request, Figures())
    assert len(report.rows) == 3 + 4
    assert set(report.pictures) == {"lengths.png"}


def test_text_of_an_mdm_is_written_on_every_canvas(tiny_dataset):
    runs = {
        name: untrained_model(tiny_dataset, name.lower(), tiny.LENGTH)
        for name in ("FlexMDM", "MDM")
    }
    request = dataclasses.replace(REQUEST, rules=("exact_rate",), canvas=(4, 16), num=6)
    with jax.set_mesh(runs["MDM"].setup.mesh):
        report = evaluate_text(runs, tiny_dataset, request, Figures())
    names = [f"MDM, exact_rate, 2 steps, canvas {n}" for n in (4, 16)]
    assert list(report.rows)[3:] == ["FlexMDM", *names]
    for name, most in zip(names, (4, 16), strict=True):
        own = [len(x.told["tokens"]) for x in report.samples if x.run == name]
        assert 0 < max(own) <= most
        assert report.rows[name]["length_mean"] == np.mean(own)
    # What it gives held-out text does not depend on what it writes on.
    one, other = (report.rows[name]["perplexity"] for name in names)
    assert one == other
    assert set(report.pictures) == {"lengths.png", "calls.png", "canvas.png"}
    for png in report.pictures.values():
        assert_shows_something(png)


def test_a_models_digest_is_that_of_its_parameters(tiny_dataset):
    model = untrained_model(tiny_dataset, "flexmdm", tiny.LENGTH)
    same = untrained_model(tiny_dataset, "flexmdm", tiny.LENGTH)
    assert model.digest() == same.digest()
    params = jax.tree.map(lambda x: x, model.params)
    leaves, structure = jax.tree.flatten(params)
    leaves[0] = leaves[0].at[(0,) * leaves[0].ndim].add(1e-3)
    other = dataclasses.replace(model, params=jax.tree.unflatten(structure, leaves))
    assert other.digest() != model.digest()
