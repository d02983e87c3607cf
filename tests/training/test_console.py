"""What a training says: the line for each thing that happens."""

import pytest

from flexmdm_jax.config import DataConfig
from flexmdm_jax.training.console import Console, padding_warning


@pytest.fixture
def console():
    console = Console(0, 100)
    yield console
    console.close()


def lines(capsys):
    """Returns what has been written, without the bar."""
    written = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return [line for line in written if line.strip() and not line.startswith("train:")]


def test_the_figures_that_say_most_are_told(console, capsys):
    lines(capsys)
    text = {"nats_per_sequence": 30.0, "nats_per_token": 1.23456, "length_w1": 0.5, "calls": 7.0}
    console.evaluated(1500, text, 12.4)
    console.evaluated(2000, {"solved": 0.25}, 0.2)
    assert lines(capsys) == [
        "step 1,500: held out, nats_per_token 1.235, length_w1 0.5 (12 s)",
        "step 2,000: held out, solved 0.25 (0 s)",
    ]


def test_a_text_takes_one_line_whatever_it_holds(console, capsys):
    lines(capsys)
    samples = [{"length": 3, "text": "é\n\x1b[2J"}, {"length": 200, "text": "x" * 200}]
    console.sampled(5, samples + samples + samples)
    first, second, third = lines(capsys)
    assert first == third == r"step 5: [3 tokens] é\n\x1b[2J"
    assert second == f"step 5: [200 tokens] {'x' * 100}..."


def test_what_happens_often_is_told_once(console, capsys, tmp_path):
    lines(capsys)
    for step in (10, 20):
        console.saved(step, tmp_path, 3)
    console.tell_once("padding", "61%")
    console.tell_once("padding", "62%")
    assert lines(capsys) == [f"checkpoints: {tmp_path}, of which the newest 3 stay", "61%"]


def test_only_process_0_speaks(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    console = Console(7, 100)
    with console.compiling("the step"):
        console.advance()
    console.evaluated(8, {"nats_per_token": 1.0}, 1.0)
    console.saved(8, tmp_path, 3)
    console.close()
    assert capsys.readouterr().err == ""


def test_padding_is_named_with_what_mends_it():
    padded = DataConfig(path="data/tiny", max_length=64)
    packed = DataConfig(path="data/tiny", max_length=64, packing=True, max_segments=2)
    assert padding_warning(0.5, padded) == padding_warning(0.97, packed) == ""
    assert padding_warning(0.25, padded).startswith("warning: 75% of all slots are padding")
    assert "config.data.packing=True" in padding_warning(0.25, padded)
    # It is on already, and two sequences to a row leave it empty.
    assert "packing" not in padding_warning(0.25, packed)
    assert "config.data.max_segments=4" in padding_warning(0.25, packed)
