"""HumanEval infilling: files, pass@k, candidates run in the sandbox, and the command."""

import dataclasses
import gzip
import itertools
import json
import os
import pathlib

import jax
import numpy as np
import pytest
from commands import kill_after_lines, refuse, run, succeed
from untrained import REQUEST, untrained_model, write_run

from flexmdm_jax.data.storage.records import Sequence
from flexmdm_jax.data.tasks.infilling import span_after_both_sides
from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.comparison import Run
from flexmdm_jax.evaluation.humaneval import (
    Asker,
    Benchmark,
    Candidates,
    evaluate_gold,
    evaluate_humaneval,
    figures_of,
)
from flexmdm_jax.evaluation.problems import Problem, pass_at_k, read_problems
from flexmdm_jax.evaluation.sandbox import Sandbox
from flexmdm_jax.partial import Figures
from flexmdm_jax.sampling import SamplerConfig

LENGTH = 48
TEST = "def check(f):\n    assert f() == 1\n"
# Whatever stands in a comment, or in a text, passes or fails; the last does not fit a row.
PROBLEMS = [
    Problem("always", "'''", "'''\ndef f():\n    return 1\n", "", TEST, "f"),
    Problem("never", "'''", "'''\ndef f():\n    return 2\n", "", TEST, "f"),
    Problem("too long", "#" * LENGTH, "\ndef f(): return 1\n", "", TEST, "f"),
]
GOOD = Problem("good", "def f():\n", "", "    return 1\n", TEST, "f")
DATA = pathlib.Path(os.environ.get("FLEXMDM_DATA_DIR", "")) / "humaneval_infill"


@pytest.fixture(scope="module")
def sandbox():
    try:
        return Sandbox.open()
    except UserError as error:
        pytest.skip(str(error))


def write(path, problems):
    text = "".join(json.dumps(dataclasses.asdict(problem)) + "\n" for problem in problems)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz"])
def test_problems_are_read_as_they_were_written(tmp_path, name):
    problems, digest = read_problems(write(tmp_path / name, PROBLEMS))
    assert problems == PROBLEMS
    assert len(digest) == 64


def _without(name, **others):
    values = dataclasses.asdict(GOOD) | others
    del values[name]
    return json.dumps(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no problems"),
        ("\n\n", "holds no problems"),
        (_without("test") + "\n", "line 1: 'test' is nothing; it must be a text"),
        ("\n" + _without("test", suffix=3) + "\n", "line 2: 'suffix' is 3; it must be a text"),
        (_without("x", x=0, prompt="\ud800") + "\n", "line 1: 'prompt' holds half of a surrogate"),
        ("[1]\n", r"line 1: \[1\]; a problem is an object"),
        ("{\n", "line 1: no JSON"),
        ((json.dumps(dataclasses.asdict(GOOD)) + "\n") * 2, "2 problems are called 'good'"),
    ],
)
def test_files_that_hold_something_else_are_refused(tmp_path, text, message):
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_problems(path)


def test_files_that_are_missing_or_damaged_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"nosuch\.jsonl: No such file"):
        read_problems(tmp_path / "nosuch.jsonl")
    with pytest.raises(UserError, match="Is a directory"):
        read_problems(tmp_path)
    whole = write(tmp_path / "p.jsonl.gz", PROBLEMS).read_bytes()
    for content in (whole[:-12], b"{}\n", whole[:30] + b"xxxx" + whole[34:]):
        (tmp_path / "p.jsonl.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"p.jsonl.gz: damaged .*; fetch it once more"):
            read_problems(tmp_path / "p.jsonl.gz")


@pytest.mark.parametrize("num", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_choices_with_a_success(num):
    for passed in range(num + 1):
        outcomes = [True] * passed + [False] * (num - passed)
        for k in range(1, num + 1):
            share = np.mean([any(chosen) for chosen in itertools.combinations(outcomes, k)])
            np.testing.assert_allclose(pass_at_k(num, passed, k), share, atol=1e-12)


def test_figures_count_what_was_not_asked_as_failed():
    benchmark = Benchmark(PROBLEMS, None, candidates=2)
    shared = {"seconds": 1.0, "calls": 3, "truncated": True}
    lines = [
        {"task_id": "always", "outcome": "passed", "middle": "x", **shared},
        {"task_id": "always", "outcome": "passed", "middle": "", **shared},
        {"task_id": "never", "outcome": "passed", "middle": "y", **shared},
        {"task_id": "never", "outcome": "crashed", "middle": "z", **shared},
        {"task_id": "too long", "outcome": "not asked", "reason": "no room"},
    ]
    figures = figures_of(lines, benchmark)
    assert figures["pass@1"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert figures["pass@1_low"] < 0.5 < figures["pass@1_high"]
    assert "pass@10" not in figures
    assert figures["crashed"] == pytest.approx(1 / 6)
    assert figures["not asked"] == pytest.approx(1 / 3)
    assert figures["empty"] == 0.25
    assert figures["problems"] == 3


def test_the_canonical_solutions_are_run(sandbox):
    wrong = dataclasses.replace(GOOD, task_id="wrong", canonical_solution="    return 2\n")
    report, failed = evaluate_gold(Benchmark([GOOD, wrong], sandbox, workers=2), Candidates())
    [figures] = report.rows.values()
    assert figures["pass@1"] == 0.5
    [line] = failed
    assert (line["task_id"], line["outcome"]) == ("wrong", "failed")
    assert line["reason"] == "AssertionError: assert f() == 1"


def test_middles_stay_as_they_are(sandbox):
    """A stray space or line is part of an answer, and so is the lack of anything."""
    spoiled = [("    return 1", True), ("   return 1\n return 2\n", False), ("", False)]
    for middle, passes in spoiled:
        problem = dataclasses.replace(GOOD, canonical_solution=middle)
        _, failed = evaluate_gold(Benchmark([problem], sandbox), Candidates())
        assert (not failed) is passes


def test_candidates_of_a_model_are_run_and_taken_up(tiny_dataset, sandbox):
    model = untrained_model(tiny_dataset, "flexmdm", LENGTH)
    benchmark = Benchmark(PROBLEMS, sandbox, candidates=3, workers=2)
    request = dataclasses.replace(REQUEST, rules=("exact_rate",))

    def evaluate(found=()):
        lines = []
        with jax.set_mesh(model.setup.mesh):
            report = evaluate_humaneval(
                {"FlexMDM": Asker(model)},
                benchmark,
                request,
                Figures(),
                Candidates(found, lines.append),
            )
        return report, lines

    report, lines = evaluate()
    [(name, figures)] = report.rows.items()
    assert name == "FlexMDM, exact_rate, 2 steps"
    # The third problem is one line, for it was not asked.
    assert [line["task_id"] for line in lines] == ["always"] * 3 + ["never"] * 3 + ["too long"]
    assert [line.get("sample") for line in lines] == [0, 1, 2, 0, 1, 2, None]
    assert lines[-1]["outcome"] == "not asked"
    assert "leave no room" in lines[-1]["reason"]
    for line in lines[:-1]:
        problem = PROBLEMS[0 if line["task_id"] == "always" else 1]
        namespace = {}
        try:
            exec(problem.prompt + line["middle"] + problem.suffix, namespace)
            right = namespace["f"]() == 1
        except (SyntaxError, ValueError):
            right = False
        assert (line["outcome"] == "passed") is right
    passed = sum(line["outcome"] == "passed" for line in lines)
    assert passed > 0
    assert figures["pass@1"] == pytest.approx(passed / 9)
    assert figures["not asked"] == pytest.approx(1 / 3)
    for known in (4, 7):
        again, others = evaluate(lines[:known])
        unlike = {key for key in figures if again.rows[name][key] != figures[key]}
        assert unlike <= {"seconds"}
        timeless = [x | {"seconds": 0} for x in lines[known:]]
        assert [x | {"seconds": 0} for x in others] == timeless


def test_an_mdm_is_asked_as_it_was_trained(tiny_dataset):
    model = untrained_model(tiny_dataset, "mdm", LENGTH)
    with pytest.raises(UserError, match="fills in code if it was trained on infilling"):
        Asker(model)
    marks = ((1, 2), (3,), (4, 5))
    problem = Problem("p", "abcd", "ghi", "ef", TEST, "f")
    request = Asker(model, marks).request(problem, SamplerConfig(), 1)
    end = model.setup.process.vocabulary.end
    text = np.array([*b"abcdefghi", end])
    # The one choice of a span that is this problem's.
    trained = (
        span_after_both_sides(Sequence(text, np.zeros(10, bool)), index, seed=0, marks=marks)
        for index in range(1000)
    )
    alike = next(row for row in trained if bytes(row.tokens[~row.fixed].tolist()[:-1]) == b"ef")
    assert list(request.parts[0]) == alike.tokens[alike.fixed].tolist()
    assert request.gaps == (1,)


def test_an_mdm_fills_in_on_every_canvas(tiny_dataset, sandbox):
    model = untrained_model(tiny_dataset, "mdm", LENGTH)
    askers = {"MDM": Asker(model, ((1,), (2,), (3,)))}
    canvases, lines = (4, 20), []
    request = dataclasses.replace(REQUEST, rules=("exact_rate",), canvas=canvases)
    with jax.set_mesh(model.setup.mesh):
        report = evaluate_humaneval(
            askers, Benchmark(PROBLEMS, sandbox), request, Figures(), Candidates((), lines.append)
        )
    names = [f"MDM, exact_rate, 2 steps, canvas {n}" for n in (4, 20)]
    assert list(report.rows) == names
    assert set(report.pictures) == {"canvas.png"}
    # Both sides and the marks take more than 28 slots of 48; one problem has no room at all.
    short, long = ([line for line in lines if line["run"] == name] for name in names)
    assert [len(line["middle"]) <= 4 for line in short[:2]] == [True, True]
    assert "leave no room" in short[2]["reason"]
    assert report.rows[names[0]]["not asked"] == pytest.approx(1 / 3)
    assert all(
        "given tokens and a canvas of 20 slots do not fit" in line["reason"] for line in long[:2]
    )
    assert report.rows[names[1]]["not asked"] == 1
    assert report.rows[names[1]]["pass@1"] == 0
    compared = report.examples[Run("MDM", f"exact_rate, 2 steps, canvas {canvases[0]}", "2 steps")]
    assert compared.figures["success"].values.mean() == report.rows[names[0]]["pass@1"]


@pytest.fixture(scope="module")
def workdir(tiny_dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "flex"
    write_run(tiny_dataset, LENGTH, path)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gold"], "--gold .* --humaneval=FILE or --data=DIR"),
        (["--workdir=x", "--candidates=2"], "--candidates goes with --humaneval=FILE"),
        (["--gold", "--humaneval=p.jsonl"], "runs its own solutions .*--allow_code_execution"),
        (["--workdir=x", "--humaneval=p.jsonl"], "runs what the model writes .*--allow_code"),
        (["--humaneval=p.jsonl", "--allow_code_execution"], "--workdir must be given"),
        (
            ["--workdir=x", "--humaneval=p.jsonl", "--allow_code_execution", "--reference=d"],
            "--metrics and --reference are for text, and --humaneval judges programs",
        ),
        (
            ["--gold", "--humaneval=p.jsonl", "--allow_code_execution", "--steps=4"],
            "--steps has no say beside --gold",
        ),
        (
            ["--gold", "--humaneval=nosuch.jsonl", "--allow_code_execution"],
            "nosuch.jsonl: No such file",
        ),
    ],
)
def test_the_command_says_what_is_wrong(arguments, message):
    refuse(message, "evaluate", *arguments)


def test_the_command_runs_the_canonical_solutions(tmp_path, sandbox):
    path = write(tmp_path / "p.jsonl", [GOOD, dataclasses.replace(GOOD, task_id="again")])
    arguments = ("evaluate", "--gold", f"--humaneval={path}", "--allow_code_execution")
    result = succeed(*arguments, f"--out={tmp_path}/out")
    assert "canonical solutions" in result.stdout
    lines = [json.loads(line) for line in (tmp_path / "out" / "humaneval.jsonl").open()]
    assert [line["outcome"] for line in lines] == ["passed", "passed"]
    write(path, [GOOD, dataclasses.replace(GOOD, task_id="bad", canonical_solution="    pass\n")])
    result = run(*arguments)
    assert result.returncode == 1
    assert "1 of 2 canonical solutions do not pass, bad first: failed, Assert" in result.stderr


def test_a_killed_command_goes_on_where_it_was(workdir, tmp_path, sandbox):
    path = write(tmp_path / "p.jsonl.gz", PROBLEMS)
    arguments = [f"--workdir={workdir}", f"--humaneval={path}", "--allow_code_execution"]
    arguments += ["--candidates=10", "--steps=2", f"--out={tmp_path}/out"]
    partial = tmp_path / "out" / "humaneval.jsonl.partial"
    kill_after_lines(4, partial, "evaluate", *arguments)
    kept = partial.read_bytes().split(b"\n")[1:-1]
    result = succeed("evaluate", *arguments)
    assert "pass@10" in result.stdout
    lines = (tmp_path / "out" / "humaneval.jsonl").read_bytes().split(b"\n")[:-1]
    assert lines[: len(kept)] == kept
    assert len(lines) == 21
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    passed = [json.loads(x)["outcome"] for x in lines].count("passed")
    [row] = figures.values()
    assert row["pass@1"] == pytest.approx(passed / 30)
    refuse("exists already", "evaluate", *arguments)


@pytest.mark.skipif(not DATA.is_dir(), reason="FLEXMDM_DATA_DIR holds no humaneval_infill")
@pytest.mark.parametrize("kind", ["SingleLineInfilling", "RandomSpanInfillingLight"])
def test_canonical_solutions_of_the_benchmark_pass(sandbox, kind):
    problems, _ = read_problems(DATA / f"HumanEval-{kind}.jsonl.gz")
    benchmark = Benchmark(problems[:: len(problems) // 12], sandbox, workers=2)
    _, failed = evaluate_gold(benchmark, Candidates())
    assert failed == []
