"""Whose a workdir is: nobody's until a first step can be taken, then one run's on one data."""

import contextlib
import json
import multiprocessing
import os
import pathlib
import signal
import time

import pytest
import tiny
from commands import config_file, refuse, start

from flexmdm_jax.config import read_config
from flexmdm_jax.errors import UserError
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training import loop
from flexmdm_jax.training.loop import train
from flexmdm_jax.training.state import Setup
from flexmdm_jax.training.workdir import (
    Experiment,
    check_workdir,
    load_experiment,
    owned_workdir,
    write_experiment,
)


def _experiment(values, dataset):
    config = read_config(values)
    return Experiment(config, dataset.vocabulary, dataset.tokenizer_sha256, dataset.sha256)


def _claim(workdir, values, dataset):
    write_experiment(workdir, _experiment(values, dataset), dataset.tokenizer())


@pytest.fixture(scope="module")
def other_dataset(tmp_path_factory):
    """The same tokenizer, lengths and counts; other letters."""
    texts = [text.replace("a", "z") for text in tiny.texts()]
    return tiny.write_dataset(tmp_path_factory.mktemp("other") / "data", texts)


def test_other_data_of_the_same_tokenizer_is_refused_and_both_are_named(
    tiny_config, tiny_dataset, other_dataset, tmp_path
):
    _claim(tmp_path, tiny_config, tiny_dataset)
    tiny_config["data"]["path"] = str(other_dataset.directory)
    config = read_config(tiny_config)
    with pytest.raises(UserError) as error:
        check_workdir(tmp_path, config, other_dataset)
    for name in (tiny_dataset, other_dataset):
        assert str(name.directory) in str(error.value)
        assert name.sha256[:12] in str(error.value)
    assert f"--config.training.start={tmp_path}" in str(error.value)
    assert load_experiment(tmp_path).dataset_sha256 == tiny_dataset.sha256


def test_the_same_data_elsewhere_is_the_same(tiny_config, tiny_dataset, tmp_path):
    _claim(tmp_path / "w", tiny_config, tiny_dataset)
    again = tiny.write_dataset(tmp_path / "again", tiny.texts())
    tiny_config["data"]["path"] = str(again.directory)
    check_workdir(tmp_path / "w", read_config(tiny_config), again)


def test_runs_that_do_not_know_their_data_are_taken_up(tiny_config, tiny_dataset, tmp_path):
    """As those of earlier versions."""
    _claim(tmp_path, tiny_config, tiny_dataset)
    path = tmp_path / "experiment.json"
    values = json.loads(path.read_text())
    del values["dataset_sha256"]
    path.write_text(json.dumps(values))
    ours = check_workdir(tmp_path, read_config(tiny_config), tiny_dataset)
    assert ours.dataset_sha256 == tiny_dataset.sha256


def test_more_steps_under_a_decaying_schedule_are_refused_with_the_way_to_have_them(
    tiny_config, tiny_dataset, tmp_path
):
    tiny_config["optimizer"]["decay"] = "cosine"
    _claim(tmp_path, tiny_config, tiny_dataset)
    tiny_config["training"]["num_steps"] += 1
    message = r"num_steps was 10, is 11.*'cosine' every learning rate.*--config.training.start="
    with pytest.raises(UserError, match=message):
        check_workdir(tmp_path, read_config(tiny_config), tiny_dataset)


@pytest.mark.parametrize("content", [b"\xa0", b"{", b"[]", b"{}", b"5"])
def test_a_damaged_experiment_is_named(content, tiny_config, tiny_dataset, tmp_path):
    _claim(tmp_path, tiny_config, tiny_dataset)
    (tmp_path / "experiment.json").write_bytes(content)
    with pytest.raises(UserError, match=r"experiment\.json"):
        load_experiment(tmp_path)


def test_checkpoints_without_an_experiment_are_no_free_place(tiny_config, tiny_dataset, tmp_path):
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    with pytest.raises(UserError, match="holds files but no run"):
        check_workdir(tmp_path, read_config(tiny_config), tiny_dataset)


def _hold(workdir, ready):
    with owned_workdir(workdir):
        (workdir / "experiment.json").write_text("{}")
        ready.set()
        time.sleep(600)


def test_a_second_process_gets_one_line_and_a_killed_owner_leaves_no_lock(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    owner = spawn.Process(target=_hold, args=(tmp_path, ready))
    owner.start()
    assert ready.wait(timeout=120)
    with pytest.raises(UserError, match="another process trains in"), owned_workdir(tmp_path):
        pass
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    with owned_workdir(tmp_path):
        pass


def _reject_length(values):
    values["data"]["max_length"] = 8


def _reject_devices(values):
    values["training"]["batch_size"] = 3


def _reject_start(values):
    values["training"]["start"] = "nowhere"


def _reject_base(values):
    llada = {"base": "nowhere", "embedding_size": 258, "mlp_size": 8, "num_kv_heads": 2}
    llada |= {"lora": {"rank": 2, "targets": "q"}}
    values["model"] |= {"kind": "llada", "dropout_rate": 0.0, "llada": llada}


REJECTED = (_reject_length, _reject_devices, _reject_start, _reject_base)


@pytest.mark.parametrize("reject", REJECTED)
def test_a_run_that_is_rejected_leaves_nothing(reject, tiny_config, tiny_dataset, tmp_path):
    reject(tiny_config)
    config = read_config(tiny_config)
    setup = Setup.of(config, tiny_dataset.vocabulary, make_mesh(config.mesh))
    (tmp_path / "mine").mkdir()
    for workdir in ("new", "new/and/deep", "mine", "mine/new"):
        with pytest.raises(UserError):
            train(config, setup, tiny_dataset, tmp_path / workdir, lambda _: {})
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"], "not even a folder"


@pytest.mark.parametrize(
    "name", ["make_optimizer", "first_state", "load_frozen", "start_from", "Checkpoints", "_claim"]
)
def test_whatever_fails_before_the_first_step_leaves_nothing(
    name, tiny_config, tiny_dataset, tmp_path, monkeypatch
):
    def fail(*_, **__):
        raise UserError("as it happens")

    monkeypatch.setattr(loop, name, fail)
    config = read_config(tiny_config)
    setup = Setup.of(config, tiny_dataset.vocabulary, make_mesh(config.mesh))
    with pytest.raises(UserError, match="as it happens"):
        train(config, setup, tiny_dataset, tmp_path / "w", lambda _: {})
    assert not (tmp_path / "w").exists()


def test_files_of_others_stay_when_a_run_is_rejected(tiny_config, tiny_dataset, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with contextlib.suppress(UserError), owned_workdir(tmp_path):
        check_workdir(tmp_path, read_config(tiny_config), tiny_dataset)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["run[1]", "a*", "why?", "**", "in[side]/run"])
def test_names_that_are_patterns_to_orbax_are_refused(name, tiny_dataset, tmp_path):
    config = config_file(tmp_path / "config.py", tiny.config(tiny_dataset))
    message = r"checkpoints cannot lie in a folder with '[\[*?]' in its name; choose another"
    refuse(message, "train", f"--config={config}", f"--workdir={tmp_path / name}")
    assert [path.name for path in tmp_path.iterdir()] == ["config.py"]


def test_two_commands_in_one_workdir(tiny_dataset, tmp_path):
    """The second one ends with a line; the first one goes on as if nothing had been."""
    values = tiny.config(tiny_dataset)
    values["training"] |= {"num_steps": 100_000, "log_every": 1, "checkpoint_every": 100_000}
    values["training"]["evaluate_every"] = 1_000_000
    config = config_file(tmp_path / "config.py", values)
    arguments = [f"--config={config}", f"--workdir={tmp_path / 'w'}"]
    first = start("train", *arguments)
    metrics = pathlib.Path(tmp_path, "w", "metrics.jsonl")
    try:
        while not metrics.exists() or not metrics.read_text():
            assert first.runs(0.1)
        refuse("another process trains in", "train", *arguments)
    finally:
        os.kill(first.pid, signal.SIGTERM)
        ended = first.result()
    assert ended.returncode == 0, ended.stderr
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
