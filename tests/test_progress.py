"""Bars in a file are a few whole lines; on a terminal they are redrawn."""

import io
import itertools
import sys

import pytest
from tqdm import tqdm

from flexmdm_jax import progress
from flexmdm_jax.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def seconds(monkeypatch):
    """A clock that shows a second more whenever it is looked at."""
    clock = itertools.count()
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))


@pytest.mark.usefixtures("seconds")
def test_a_file_gets_few_lines_and_the_last_state(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with progress_bar(total=1000, desc="train", mininterval=0) as bar:
        for number in range(1000):
            bar.update()
            bar.set_postfix_str(f"loss {number}")
            if number == 500:
                tqdm.write("half of it", file=sys.stderr)
    text = log.getvalue()
    assert "\r" not in text
    lines = text.splitlines()
    assert lines.count("half of it") == 1
    bars = [line for line in lines if line.startswith("train: ")]
    assert sorted([*bars, "half of it"]) == sorted(lines)
    assert 10 < len(bars) < 1000 / 10
    assert "1000/1000" in bars[-1]
    assert "loss 999" in bars[-1]
    assert len(set(bars)) == len(bars)


def test_a_short_task_says_once_that_it_is_done(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    assert list(progress_bar(range(50), desc="bounds", mininterval=0)) == list(range(50))
    [line] = log.getvalue().splitlines()
    assert "50/50" in line


def test_what_is_taken_up_again_says_where_it_was(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    list(progress_bar(range(34), desc="bounds", initial=16, total=50, mininterval=0))
    first, last = log.getvalue().splitlines()
    assert " 16/50 " in first
    assert " 50/50 " in last


def test_a_terminal_sees_it_move(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    list(progress_bar(range(50), desc="bounds", mininterval=0))
    assert screen.getvalue().count("\rbounds: ") >= 50


def test_a_silent_bar_writes_nothing(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    list(progress_bar(range(50), disable=True))
    assert log.getvalue() == ""
