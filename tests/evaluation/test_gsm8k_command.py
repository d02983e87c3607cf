"""The command on GSM8K: an interruption costs nothing and changes nothing."""

import json
import shutil

import pytest
from commands import kill_after_lines, refuse, run, succeed
from untrained import write_run

from flexmdm_jax.data.tasks import BracketsConfig, Gsm8kConfig
from flexmdm_jax.data.tokenizers import ByteTokenizer

LENGTH, NUM = 48, 40


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The workdirs of an untrained FlexMDM and MDM by name, and their data beside them."""
    home = tmp_path_factory.mktemp("gsm8k")
    lines = [{"question": f"{i} + 1?", "answer": f"{i} + 1.\n#### {i + 1}"} for i in range(NUM)]
    for name in ("train", "test"):
        (home / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    dataset = Gsm8kConfig(str(home), LENGTH).write(home / "data", ByteTokenizer({}))
    for method in ("flexmdm", "mdm"):
        write_run(dataset, LENGTH, home / method, method)
    return home


def test_a_killed_command_goes_on_where_it_was(runs, tmp_path):
    arguments = [f"--workdir={runs}/flexmdm", "--steps=4", "--steps=8", "--batch_size=8"]
    arguments += ["--num_sequences=8", "--num_times=2", "--seed=5"]
    partial = tmp_path / "killed" / "evaluation.json.partial"
    kill_after_lines(12, partial, "evaluate", *arguments, f"--out={tmp_path}/killed")
    kept = partial.read_bytes().split(b"\n")[1:-1]
    assert 11 <= len(kept) < 2 * NUM
    resumed = succeed("evaluate", *arguments, f"--out={tmp_path}/killed")
    whole = succeed("evaluate", *arguments, f"--out={tmp_path}/whole")
    for name in ("samples.jsonl", "evaluation.json", "success.png"):
        killed = (tmp_path / "killed" / name).read_bytes()
        assert killed == (tmp_path / "whole" / name).read_bytes(), name
    assert not partial.exists()
    samples = (tmp_path / "killed" / "samples.jsonl").read_text()
    lines = [json.loads(line) for line in samples.splitlines()]
    assert [line["question"] for line in lines] == 2 * list(range(NUM))
    assert [line["truth"] for line in lines] == 2 * [str(n + 1) for n in range(NUM)]
    figures = json.loads((tmp_path / "whole" / "evaluation.json").read_text())
    names = [f"FlexMDM, adaptive:window_size=64, {n} steps" for n in (4, 8)]
    assert list(figures) == list(dict.fromkeys(line["run"] for line in lines)) == names
    for stdout in (resumed.stdout, whole.stdout):
        assert "adaptive:window_size=64 at temperature 0" in stdout
        assert "/samples.jsonl" in stdout.splitlines()[-1]


def test_runs_are_compared_on_the_same_questions(runs, tmp_path):
    few = ("--steps=4", "--steps=4", "--num_sequences=4", "--num_times=2", "--rule=adaptive")
    succeed(
        "evaluate",
        f"--workdir={runs}/flexmdm",
        f"--baseline={runs}/mdm",
        f"--out={tmp_path}",
        *few,
    )
    compared = json.loads((tmp_path / "comparison.json").read_text())
    row = compared["FlexMDM, adaptive, 4 steps - MDM: success"]
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    assert row["figure"] == figures["FlexMDM, adaptive, 4 steps"]["success"]
    assert row["baseline"] == figures["MDM, adaptive, 4 steps"]["success"]
    samples = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert len(samples) == 2 * NUM, "a way that is named twice is one way"
    assert row["examples"] == NUM, "all questions, unless --num says how many"


def test_a_baseline_that_is_none_is_said_before_a_run_is_loaded(runs, tmp_path):
    shutil.copytree(runs / "mdm", tmp_path / "emptied")
    shutil.rmtree(tmp_path / "emptied" / "checkpoints")
    command = ("evaluate", f"--workdir={tmp_path}/emptied", f"--baseline={tmp_path}/none")
    refuse(f"no run in {tmp_path}/none", *command)


def test_true_answers_are_judged_without_a_run(runs, tmp_path):
    answer = succeed("evaluate", "--gold", f"--data={runs}/data").stdout
    assert "true answers" in answer
    assert "1.000" in answer
    refuse("--humaneval=FILE or --data=DIR", "evaluate", "--gold")
    refuse(
        "--gold.*workdir|--workdir.*gold",
        "evaluate",
        "--gold",
        f"--data={runs}/data",
        f"--workdir={runs}/mdm",
    )
    dataset = BracketsConfig(num_sequences=40, validation_fraction=0.3).write(tmp_path / "b")
    refuse("holds brackets", "evaluate", "--gold", f"--data={dataset.directory}")
    lines = [{"question": "1 + 1?", "answer": "#### 2"}, {"question": "2?", "answer": "two"}]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    spoiled = Gsm8kConfig(str(tmp_path), LENGTH).write(tmp_path / "c", ByteTokenizer({}))
    failed = run("evaluate", "--gold", f"--data={spoiled.directory}")
    assert failed.returncode == 1
    assert "1 true answers are not found right, that of held-out question 2" in failed.stderr


def test_canvases_that_nobody_writes_on_are_refused(runs, tmp_path):
    flexmdm, mdm = (f"--workdir={runs}/{name}" for name in ("flexmdm", "mdm"))
    refuse("--canvas is for MDM", "evaluate", flexmdm, "--canvas=8")
    refuse("--block_length is for MDM", "evaluate", flexmdm, "--block_length=8", "--steps=8")
    too_long = f"a canvas of {LENGTH + 1} slots: MDM's rows have {LENGTH}"
    refuse(too_long, "evaluate", mdm, f"--canvas={LENGTH + 1}")
    refuse("2 steps cannot fill the 3 blocks", "evaluate", mdm, "--block_length=16", "--steps=2")
    refuse("--canvas.* at least 1", "evaluate", mdm, "--canvas=0")
    dataset = BracketsConfig(num_sequences=40, validation_fraction=0.3).write(tmp_path / "b")
    write_run(dataset, 72, tmp_path / "mdm", "mdm")
    refuse(
        "--canvas has no say for brackets", "evaluate", f"--workdir={tmp_path}/mdm", "--canvas=8"
    )
