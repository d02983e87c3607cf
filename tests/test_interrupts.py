"""Ctrl-C: training saves and stops, a second one stops at once, every command says so in a line."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import training_programs
from commands import environment

from flexmdm_jax.config import read_config
from flexmdm_jax.hosts import Preemption
from flexmdm_jax.model import load
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.loop import train
from flexmdm_jax.training.state import Setup

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(scope="module", autouse=True)
def shared_programs():
    with training_programs.shared():
        yield


@pytest.fixture(autouse=True)
def in_the_foreground():
    """Where the tests are started in the background, Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_first_signal_is_a_wish_to_stop(number):
    before = [signal.getsignal(x) for x in SIGNALS]
    with Preemption() as preemption:
        assert not preemption.due(1)
        os.kill(os.getpid(), number)
        assert preemption.due(2)
        assert preemption.due(3)
    assert [signal.getsignal(x) for x in SIGNALS] == before


def test_a_second_interrupt_stops_at_once(capsys):
    before = [signal.getsignal(x) for x in SIGNALS]
    with Preemption() as preemption:
        os.kill(os.getpid(), signal.SIGINT)
        assert "Ctrl-C again: at once" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert preemption.due(1)
    assert [signal.getsignal(x) for x in SIGNALS] == before


def test_in_the_background_it_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Preemption() as preemption:
        os.kill(os.getpid(), signal.SIGINT)
        assert not preemption.due(1)


def test_a_command_that_is_interrupted_ends_with_one_line():
    code = """
        import os, signal
        from flexmdm_jax import cli
        signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.run(lambda _: os.kill(os.getpid(), signal.SIGINT))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert result.returncode == 130
    assert result.stderr.startswith("error: interrupted; ")
    assert len(result.stderr.splitlines()) == 1


def test_the_last_step_is_saved_before_it_is_evaluated(tiny_config, tiny_dataset, tmp_path):
    saved = []

    def evaluate(_):
        saved.extend(path.name for path in (tmp_path / "w" / "checkpoints").iterdir())
        raise KeyboardInterrupt

    tiny_config["training"]["num_steps"] = 3
    config, workdir = read_config(tiny_config), tmp_path / "w"
    setup = Setup.of(config, tiny_dataset.vocabulary, make_mesh(config.mesh))
    with pytest.raises(KeyboardInterrupt):
        train(config, setup, tiny_dataset, workdir, evaluate)
    assert [name.partition(".")[0] for name in saved] == ["3"]
    assert load(tmp_path / "w").step == 3
    # What was interrupted is made up for, once.
    looks = []
    for _ in range(2):
        look = lambda params: looks.append(params) or {"nats": 1.5}  # noqa: E731
        train(config, setup, tiny_dataset, workdir, look)
    assert len(looks) == 1
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert last == {"step": 3, "eval/nats": 1.5}
