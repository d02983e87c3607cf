"""A run that was stopped goes on as if it had not been, bit for bit."""

import json
import pathlib
import random
import shutil

import jax
import numpy as np
import pytest
import tiny
import training_programs
from commands import config_file, start, succeed
from effort import either

from flexmdm_jax.config import read_config
from flexmdm_jax.data.storage.mixtures import mix_datasets
from flexmdm_jax.errors import UserError
from flexmdm_jax.model import load
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training import loop
from flexmdm_jax.training.checkpoints import Checkpoints
from flexmdm_jax.training.loop import NonFiniteLossError, train
from flexmdm_jax.training.state import Setup, parameter_shapes
from flexmdm_jax.training.workdir import load_experiment

NUM_KILLS = either(2, 10)


@pytest.fixture(scope="module", autouse=True)
def shared_programs():
    with training_programs.shared():
        yield


def _train(values, dataset, workdir, num_steps, evaluate=lambda params: {}):
    values["training"]["num_steps"] = num_steps
    config = read_config(values)
    setup = Setup.of(config, dataset.vocabulary, make_mesh(config.mesh))
    return jax.device_get(train(config, setup, dataset, workdir, evaluate))


@pytest.fixture
def seen_batches(monkeypatch):
    """The rows every step was fed, in order."""
    seen = []

    class Recording(loop.DeviceBatches):
        def __next__(self):
            batch = super().__next__()
            seen.append(jax.device_get(batch))
            return batch

    monkeypatch.setattr(loop, "DeviceBatches", Recording)
    return seen


def _assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_five_and_five_steps_are_ten(tiny_config, tiny_dataset, tmp_path, seen_batches):
    straight = _train(tiny_config, tiny_dataset, tmp_path / "straight", 10)
    straight_batches = list(seen_batches)
    seen_batches.clear()
    _train(tiny_config, tiny_dataset, tmp_path / "halves", 5)
    resumed = _train(tiny_config, tiny_dataset, tmp_path / "halves", 10)
    assert resumed.step == 10
    _assert_same(straight, resumed)
    _assert_same(straight_batches, seen_batches)


PACKED = {"packing": True, "row_length": 40, "max_segments": 6}


@pytest.mark.parametrize("layout", [{"buckets": (12,)}, PACKED])
def test_layouts_and_mixtures_are_taken_up_again(
    tiny_config, tiny_dataset, tmp_path, seen_batches, layout
):
    tiny_config["data"] |= layout
    mixed = mix_datasets([tiny_dataset, tiny_dataset], [0.25, 0.75])
    straight = _train(tiny_config, mixed, tmp_path / "straight", 8)
    straight_batches = list(seen_batches)
    lengths = {batch.x.tokens.shape for batch in straight_batches}
    assert lengths == ({(8, 40)} if layout is PACKED else {(8, 12), (8, tiny.LENGTH)})
    seen_batches.clear()
    _train(tiny_config, mixed, tmp_path / "parts", 5)
    _assert_same(straight, _train(tiny_config, mixed, tmp_path / "parts", 8))
    _assert_same(straight_batches, seen_batches)


def test_a_finished_run_stays_as_it_is(tiny_config, tiny_dataset, tmp_path):
    first = _train(tiny_config, tiny_dataset, tmp_path, 5)
    again = _train(tiny_config, tiny_dataset, tmp_path, 5)
    _assert_same(first, again)


@pytest.mark.parametrize(("every", "looks"), [(0, 0), (3, 2), (4, 1)])
def test_a_run_is_evaluated_on_time_and_once_at_the_end_or_never(
    tiny_config, tiny_dataset, tmp_path, every, looks
):
    tiny_config["training"]["evaluate_every"] = every
    seen = []
    for _ in range(2):
        _train(tiny_config, tiny_dataset, tmp_path, 4, lambda params: seen.append(1) or {"x": 1.0})
    assert len(seen) == looks


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    tiny_config, tiny_dataset, tmp_path, monkeypatch
):
    good = _train(tiny_config, tiny_dataset, tmp_path, 5)
    original = loop.make_train_step

    def broken_later(*args):
        step = original(*args)

        def run(state, batch):
            state, metrics = step(state, batch)
            # Unlike a real step, this one moves numbers between host and device.
            with jax.transfer_guard("allow"):
                bad = int(state.step) == 7
                return state, metrics | ({"finite": metrics["finite"] * 0} if bad else {})

        return run

    monkeypatch.setattr(loop, "make_train_step", broken_later)
    with pytest.raises(NonFiniteLossError, match="step 7"):
        _train(tiny_config, tiny_dataset, tmp_path, 20)
    run = load(tmp_path)
    assert run.step == 5
    _assert_same(good.ema, jax.device_get(run.params))


def _steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def two_checkpoints(tiny_dataset, tmp_path_factory):
    """A workdir with checkpoints 5 and 10, and the config that made it."""
    values = tiny.config(tiny_dataset)
    workdir = tmp_path_factory.mktemp("run") / "w"
    _train(values, tiny_dataset, workdir, 10)
    return workdir, values


NUM_FLIPS = either(2, 30)


def _flip_bytes(file: pathlib.Path, source: random.Random):
    """Changes up to five bytes in a row somewhere in a file."""
    content = bytearray(file.read_bytes())
    start = source.randrange(len(content))
    for place in range(start, min(start + source.randint(1, 5), len(content))):
        content[place] ^= source.randint(1, 255)
    file.write_bytes(content)


def _damages(checkpoint: pathlib.Path):
    """Every way of deleting or truncating one file or folder of a checkpoint, and flipped bytes."""
    yield "empty", lambda path: [shutil.rmtree(p) for p in (path / "state", path / "ema")]
    for file in sorted(p for p in checkpoint.rglob("*") if p.is_file()):
        name = file.relative_to(checkpoint)
        yield f"delete {name}", lambda path, name=name: (path / name).unlink()
        # Nobody who restores parameters reads these.
        if either(name.parts[0] in ("state", "data"), False):
            continue
        for seed in range(NUM_FLIPS if file.stat().st_size else 0):
            flip = lambda path, name=name, seed=seed: _flip_bytes(path / name, random.Random(seed))  # noqa: E731
            yield f"flip {name}", flip
        if file.stat().st_size > 1:
            yield (
                f"truncate {name}",
                lambda path, name=name: (path / name).write_bytes(
                    (path / name).read_bytes()[: (path / name).stat().st_size // 2]
                ),
            )


def test_a_damaged_checkpoint_never_gives_wrong_parameters(two_checkpoints, tmp_path):
    """Whatever file is lost: the parameters are those of step 10 or, in full, those of step 5."""
    workdir, _ = two_checkpoints
    experiment = load_experiment(workdir)
    setup = Setup.of(experiment.config, experiment.vocabulary, make_mesh(experiment.config.mesh))
    shapes, _ = parameter_shapes(setup)

    def restored(path):
        checkpoints = Checkpoints(path, experiment, read_only=True)
        step, params = checkpoints.restore_ema(shapes)
        checkpoints.close()
        return step, jax.device_get(params)

    only_five = tmp_path / "five"
    shutil.copytree(workdir, only_five)
    shutil.rmtree(only_five / "checkpoints" / "10")
    expected = dict(map(restored, (workdir, only_five)))
    assert set(expected) == {5, 10}
    fallbacks = 0
    for number, (what, damage) in enumerate(_damages(workdir / "checkpoints" / "10")):
        copy = tmp_path / str(number)
        shutil.copytree(workdir, copy)
        damage(copy / "checkpoints" / "10")
        step, params = restored(copy)
        fallbacks += step == 5
        _assert_same(params, expected[step])
        assert _steps(copy)[-1] == 10, f"{what}: reading must not move anything"
        shutil.rmtree(copy)
    assert fallbacks > 3


def test_training_goes_on_from_the_newest_complete_checkpoint(
    two_checkpoints, tiny_dataset, tmp_path
):
    workdir, values = two_checkpoints
    copy = tmp_path / "w"
    shutil.copytree(workdir, copy)
    for file in (copy / "checkpoints" / "10" / "state" / "ocdbt.process_0" / "d").iterdir():
        file.unlink()
    resumed = _train(values, tiny_dataset, copy, 12)
    straight = _train(values, tiny_dataset, tmp_path / "straight", 12)
    _assert_same(straight, resumed)
    kept = list((copy / "damaged_checkpoints").iterdir())
    assert [path.name for path in kept] == ["10.0"]


def test_no_readable_checkpoint_is_an_error(two_checkpoints, tmp_path):
    workdir, _ = two_checkpoints
    copy = tmp_path / "w"
    shutil.copytree(workdir, copy)
    for step in _steps(copy):
        shutil.rmtree(copy / "checkpoints" / str(step) / "ema")
    with pytest.raises(UserError, match=r"no readable checkpoint .*\[10, 5\]"):
        load(copy)


def test_killed_again_and_again_ends_like_a_run_that_was_not(tiny_config, tmp_path):
    """kill -9 at random moments of start-up, training and saving."""
    tiny_config["training"] |= {"num_steps": 4000, "checkpoint_every": 3, "log_every": 1}
    config = config_file(tmp_path / "config.py", tiny_config)
    source = random.Random(1)
    killed = tmp_path / "killed"
    for _ in range(NUM_KILLS):
        run = start("train", f"--config={config}", f"--workdir={killed}")
        _wait_for_a_step(killed, run)
        assert run.runs(source.uniform(0, 1.5))
        run.kill()
    last = max(json.loads(line)["step"] for line in _lines(killed)) + 3
    for workdir in (killed, tmp_path / "straight"):
        arguments = [f"--workdir={workdir}", f"--config.training.num_steps={last}"]
        succeed("train", f"--config={config}", *arguments)
    a, b = load(killed), load(tmp_path / "straight")
    assert a.step == b.step == last
    _assert_same(jax.device_get(a.params), jax.device_get(b.params))
    _assert_same_metrics(_lines(killed), _lines(tmp_path / "straight"))


def _lines(workdir):
    path = workdir / "metrics.jsonl"
    return [line for line in path.read_text().splitlines() if line.endswith("}")]


def _wait_for_a_step(workdir, run):
    """Returns once the process has logged a step of its own."""
    before = len(_lines(workdir)) if (workdir / "metrics.jsonl").exists() else 0
    while not (workdir / "metrics.jsonl").exists() or len(_lines(workdir)) <= before:
        assert run.runs(0.05)


def _assert_same_metrics(killed, straight):
    """Every loss that was logged, by whichever process, is the one of the straight run."""
    truth = {d["step"]: d["loss"] for d in map(json.loads, straight) if "loss" in d}
    logged = [d for d in map(json.loads, killed) if "loss" in d]
    # Steps after a checkpoint are logged again; two kills may both have hit the very moment of one.
    assert len(logged) >= len(truth) + either(0, 1)
    assert all(truth[d["step"]] == d["loss"] for d in logged)
