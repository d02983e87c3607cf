"""Two real processes that are killed, stopped and set against each other."""

import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny
from commands import config_file as write_config
from commands import environment, refuse, start, succeed
from effort import either

from flexmdm_jax.config import read_config
from flexmdm_jax.model import load
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.feed import DeviceBatches
from flexmdm_jax.training.loop import train
from flexmdm_jax.training.state import Setup

ROOT = pathlib.Path(__file__).parents[2]
LAUNCHER = ROOT / "launch" / "local_multiprocess.sh"
NUM_KILLS = either(1, 10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _start(config_file, workdir):
    """Starts the launcher; its output goes to workdir.txt."""
    command = [LAUNCHER, "2", f"--config={config_file}", f"--workdir={workdir}"]
    env = environment() | {"PYTHON": sys.executable, "PORT": str(_free_port())}
    with workdir.with_suffix(".txt").open("a") as output:
        return subprocess.Popen(command, env=env, stdout=output, stderr=output)


def _output(workdir):
    return workdir.with_suffix(".txt").read_text()


def _steps_logged(workdir):
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("}")]


def _until(run, happened, workdir):
    """Returns once happened() is true, while the run goes on."""
    while not happened():
        try:
            run.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"the run ended early: {_output(workdir)}")


def _children(run):
    """Returns the processes of the run by number, once all of them are there."""
    found = {}
    for folder in pathlib.Path("/proc").iterdir():
        try:
            parent = folder.name.isdecimal() and (folder / "stat").read_text().rpartition(")")[2]
            words = (folder / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if parent and int(parent.split()[1]) == run.pid and "flexmdm_jax.train" in words:
            number = next(w for w in words if w.startswith("--process_id=")).partition("=")[2]
            found[int(number)] = int(folder.name)
    return found


@pytest.fixture(scope="module")
def config_file(tiny_dataset, tmp_path_factory):
    values = tiny.config(tiny_dataset)
    values["training"] |= {"num_steps": 10_000, "checkpoint_every": 4, "log_every": 1}
    values["training"]["evaluate_every"] = 100_000
    return write_config(tmp_path_factory.mktemp("config") / "config.py", values)


def _side_by_side(verb, commands):
    """Runs a command in processes of one run; returns the (status, errors) of each."""
    where = (f"--coordinator=127.0.0.1:{_free_port()}", "--num_processes=2")
    runs = [start(verb, *command, *where, f"--process_id={number}") for number, command in commands]
    ends = [run.result() for run in runs]
    return [(end.returncode, end.stderr) for end in ends]


@pytest.fixture(scope="module")
def ended(config_file, tmp_path_factory):
    """A run that was killed and stopped, and one that was not: (killed, straight, last step)."""
    home = tmp_path_factory.mktemp("faults")
    killed, source = home / "killed", random.Random(0)
    run = _start(config_file, killed)
    for number in range(NUM_KILLS):
        seen = len(_steps_logged(killed))
        _until(run, lambda: len(_steps_logged(killed)) > seen + source.randrange(12), killed)  # noqa: B023
        if number % 2 == 0:
            # In the midst of a save.
            saving = lambda: list(killed.glob("checkpoints/*tmp*"))  # noqa: E731
            _until(run, saving, killed)
        victim = _children(run)[source.randrange(2)]
        os.kill(victim, signal.SIGKILL)
        _until(run, lambda: victim not in _children(run).values(), killed)  # noqa: B023
    seen = len(_steps_logged(killed))
    _until(run, lambda: len(_steps_logged(killed)) > seen + 5, killed)
    # The notice reaches one process; both save the same step and end well.
    os.kill(_children(run)[1], signal.SIGTERM)
    assert run.wait() == 0, _output(killed)
    last = _steps_logged(killed)[-1]
    assert (killed / "checkpoints" / str(last)).is_dir()
    assert _output(killed).count("told to stop") == 2
    # Nobody goes on from its checkpoints but the last.
    lengths = (f"--config.training.{x}={last}" for x in ("num_steps", "checkpoint_every"))
    straight = [f"--config={config_file}", f"--workdir={home / 'straight'}", *lengths]
    ends = _side_by_side("train", [(0, straight), (1, straight)])
    assert [status for status, _ in ends] == [0, 0], ends
    return killed, home / "straight", last


def test_killed_processes_end_like_those_that_were_not(ended):
    killed, straight, last = ended
    assert _output(killed).count("all start again") >= NUM_KILLS
    a, b = load(killed), load(straight)
    assert a.step == b.step == last
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a.params), jax.device_get(b.params))
    lines = lambda workdir: map(json.loads, (workdir / "metrics.jsonl").open())  # noqa: E731
    truth = {line["step"]: line["loss"] for line in lines(straight) if "loss" in line}
    logged = [line for line in lines(killed) if "loss" in line]
    assert {line["step"] for line in logged} == set(truth), "a step is missing"
    assert all(truth[line["step"]] == line["loss"] for line in logged)


def test_the_data_goes_on_with_another_number_of_hosts(ended, tiny_dataset, monkeypatch):
    """Two processes saved; one goes on, with the very next examples."""
    _, workdir, last = ended
    seen = []
    take = DeviceBatches.__next__
    record = lambda batches: seen.append(take(batches)) or seen[-1]  # noqa: E731
    monkeypatch.setattr(DeviceBatches, "__next__", record)
    values = json.loads((workdir / "experiment.json").read_text())["config"]
    values["training"]["num_steps"] = last + 2
    config = read_config(values)
    setup = Setup.of(config, tiny_dataset.vocabulary, make_mesh(config.mesh))
    train(config, setup, tiny_dataset, workdir, lambda _: {})
    rows = config.training.batch_size
    for number, batch in enumerate(seen):
        first = (last + number) * rows
        assert sorted(batch.index[:, 0].tolist()) == list(range(first, first + rows))


def _refused(verb, commands):
    """Returns what each process says, all having ended with status 2."""
    ends = _side_by_side(verb, commands)
    assert [status for status, _ in ends] == [2] * len(ends), ends
    return [
        [line for line in text.splitlines() if line.startswith("error: ")][-1] for _, text in ends
    ]


def test_hosts_that_disagree_are_told_at_the_start(config_file, tmp_path):
    common = [f"--config={config_file}", f"--workdir={tmp_path / 'w'}"]
    said = _refused("train", [(0, common), (1, [*common, "--config.seed=4"])])
    assert all("the config of process [1] differs from that of process 0" in line for line in said)
    assert not (tmp_path / "w").exists()


def test_a_coordinator_that_never_answers_is_given_up(config_file, tmp_path):
    common = [f"--config={config_file}", f"--workdir={tmp_path / 'w'}", "--join_time_limit=1"]
    [said] = _refused("train", [(1, common)])
    assert "after 1 s not all processes had joined" in said
    assert "--join_time_limit" in said


def test_a_port_that_is_taken_is_named(config_file, tmp_path):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        where = f"--coordinator=127.0.0.1:{taken.getsockname()[1]}"
        common = [f"--config={config_file}", f"--workdir={tmp_path / 'w'}", where]
        message = "process 0 cannot listen there"
        refuse(message, "train", *common, "--num_processes=2", "--process_id=0")


def test_two_processes_sample_what_one_does(ended, tmp_path):
    _, workdir, _ = ended
    common = [f"--workdir={workdir}", "--num=13", "--steps=4", "--batch_size=8"]
    succeed("sample", *common, f"--out={tmp_path / 'one'}")
    together = [*common, f"--out={tmp_path / 'two'}"]
    ends = _side_by_side("sample", [(0, together), (1, together)])
    assert [status for status, _ in ends] == [0, 0], ends
    assert (tmp_path / "two").read_bytes() == (tmp_path / "one").read_bytes()
    seeds = [(number, [*together, "--overwrite", f"--seed={number}"]) for number in (0, 1)]
    said = _refused("sample", seeds)
    assert all("the command line of process [1] differs" in line for line in said)


def test_two_processes_evaluate_what_one_does(ended, tmp_path):
    _, workdir, _ = ended
    common = [f"--workdir={workdir}", "--num=13", "--steps=4", "--batch_size=8"]
    common += ["--num_sequences=11", "--num_times=2"]
    succeed("evaluate", *common, f"--out={tmp_path / 'one'}")
    together = [*common, f"--out={tmp_path / 'two'}"]
    ends = _side_by_side("evaluate", [(0, together), (1, together)])
    assert [status for status, _ in ends] == [0, 0], ends
    one, two = (
        json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    for row, figures in one.items():
        assert two[row] == pytest.approx(figures, rel=1e-5), row
