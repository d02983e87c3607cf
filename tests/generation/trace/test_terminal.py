"""Texts in a terminal: what stands on its screen, and what never reaches it."""

import io
import re

import pytest
import traces

from flexmdm_jax.generation.trace.frames import Cell, Frame, Trace
from flexmdm_jax.generation.trace.terminal import watch

MASK = traces.MASK


class Terminal(io.StringIO):
    """Obeys what watch() uses of a terminal's language, and nothing else."""

    def __init__(self, columns, rows):
        super().__init__()
        self.columns, self.rows = columns, rows
        self.lines, self.row, self.column = [""], 0, 0
        self.styles, self.style, self.cursor_hidden = set(), "", False
        self.seen = []

    def isatty(self):
        return True

    def write(self, text):
        super().write(text)
        for escape, arguments, end, character in re.findall(
            r"(\x1b\[([\d;?]*)([a-zA-Z]))|(.)", text, re.DOTALL
        ):
            if escape:
                self._obey(arguments, end)
            elif character == "\n":
                self.row, self.column = self.row + 1, 0
                self.lines += [""] * (self.row + 1 - len(self.lines))
            else:
                assert character.isprintable(), f"{character!r} reached the terminal"
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
                self.column += 1
                self.styles.add((character, self.style))

    def _obey(self, arguments, end):
        if end == "F":
            assert int(arguments) < self.rows, "what has scrolled away cannot be written again"
            assert int(arguments) <= self.row
            self.row, self.column = self.row - int(arguments), 0
        elif end == "K":
            self.lines[self.row] = self.lines[self.row][: self.column]
        elif end == "J":
            del self.lines[self.row + 1 :]
            self.lines[self.row] = self.lines[self.row][: self.column]
            self.seen.append(list(self.lines))
        elif end == "m":
            self.style = arguments
        else:
            assert (arguments, end) in {("?25l", "l"), ("?25", "l"), ("?25", "h")}
            self.cursor_hidden = end == "l"


@pytest.fixture
def screen(monkeypatch):
    """Returns a terminal of a size."""

    def made(columns=40, rows=12):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", str(rows))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        return Terminal(columns, rows)

    return made


def two_traces(pieces):
    return [
        traces.trace(pieces, text, prompt="Say:", seed=seed, name=name, corrections=0.3)
        for name, text, seed in (("one", " it, and again it", 1), ("two", " nothing", 2))
    ]


def test_in_the_end_all_texts_stand_there_once(screen):
    terminal, pieces = screen(), traces.Pieces()
    shown = two_traces(pieces)
    watch(traces.by_call(shown), pieces, MASK, out=terminal)
    headers = [
        f"{trace.name}  call {trace.frames[-1].call}  t 1.000  "
        f"{len(trace.frames[-1].tokens)} tokens  0 masks"
        for trace in shown
    ]
    assert terminal.lines == [headers[0], "Say: it, and again it", headers[1], "Say: nothing", ""]
    assert not terminal.cursor_hidden


def test_each_call_is_drawn_in_place_of_the_one_before(screen):
    terminal, pieces = screen(), traces.Pieces()
    shown = two_traces(pieces)
    watch(traces.by_call(shown), pieces, MASK, out=terminal)
    calls = max(trace.frames[-1].call for trace in shown)
    # After every call from 0 on, and once more at the end.
    assert len(terminal.seen) == calls + 2
    for call, lines in enumerate(terminal.seen[:-1]):
        assert [line for line in lines if line.startswith(f"one  call {call}  ")] or call > (
            shown[0].frames[-1].call
        )
        assert len([line for line in lines if line.startswith("one  call")]) == 1


def test_texts_share_the_screen_and_are_whole_in_the_end(screen):
    terminal, pieces = screen(columns=30, rows=9), traces.Pieces()
    words = " ".join(f"word{i}" for i in range(60))
    shown = [
        traces.trace(pieces, words, seed=seed, name=str(seed), per_call=30) for seed in range(2)
    ]
    watch(traces.by_call(shown), pieces, MASK, out=terminal)
    assert all(len(lines) <= 9 for lines in terminal.seen[:-1])
    assert any("…" in lines for lines in terminal.seen[:-1])
    assert all(len(line) < 30 for line in terminal.lines)
    text = "".join(terminal.lines)
    assert [text.count(f"word{i}") for i in (13, 59)] == [2, 2]


def test_more_texts_than_lines_do_not_scroll(screen):
    terminal, pieces = screen(rows=6), traces.Pieces()
    shown = [traces.trace(pieces, " a b c", seed=i, name=f"text {i}") for i in range(20)]
    watch(traces.by_call(shown), pieces, MASK, out=terminal)
    assert all(len(lines) <= 6 for lines in terminal.seen[:-1])
    assert all(f"text {i} " in "\n".join(terminal.lines) for i in range(20))


def hostile(pieces):
    text = "\x1b[2J\x1b]0;title\x07\r\x9b1A\u202eabc\x00"
    tokens = [pieces.id_of(bytes([byte])) for byte in text.encode()]
    frames = tuple(
        Frame.of(call, call / 2, [Cell(token, 0, None, True) for token in tokens])
        for call in range(3)
    )
    return Trace("\x1b[31mname\n", frames, {})


def test_control_characters_never_reach_the_terminal(screen):
    terminal, pieces = screen(columns=100), traces.Pieces()
    # Terminal.write() stands up against any that it does not know.
    watch(traces.by_call([hostile(pieces)]), pieces, MASK, out=terminal)
    assert terminal.lines[1] == r"\x1b[2J\x1b]0;title\x07\r\x9b1A\u202eabc\x00"
    assert terminal.lines[0].startswith(r"\x1b[31mname\n  call 2")


def styles_of(terminal, character):
    return {style for shown, style in terminal.styles if shown == character}


def colourful(pieces):
    sure, unsure, gone = (pieces.id_of(bit) for bit in (b"S", b"U", b"G"))
    frames = (
        Frame.of(1, 0.1, [Cell(MASK, 1, None, False), Cell(gone, 1, 0.5, False)]),
        Frame.of(2, 0.2, [Cell(unsure, 2, 0.01, False), Cell(MASK, 2, None, False)]),
        Frame.of(3, 1.0, [Cell(unsure, 2, 0.01, False), Cell(sure, 3, 0.99, False)]),
    )
    return Trace("colours", frames, {})


def test_new_tokens_stand_on_the_colour_that_they_are_written_in_later(screen):
    terminal, pieces = screen(), traces.Pieces()
    watch(traces.by_call([colourful(pieces)]), pieces, MASK, out=terminal)
    assert styles_of(terminal, "U") == {"7;38;5;202", "38;5;202"}
    assert styles_of(terminal, "S") == {"7;38;5;32"}
    assert "9;38;5;162" in styles_of(terminal, "G")


def test_no_color_is_heeded(screen, monkeypatch):
    terminal, pieces = screen(), traces.Pieces()
    monkeypatch.setenv("NO_COLOR", "1")
    watch(traces.by_call([colourful(pieces)]), pieces, MASK, out=terminal)
    assert not any("38;5" in style for _, style in terminal.styles)
    assert styles_of(terminal, "U") == {"7", ""}


@pytest.mark.parametrize("kind", ["pipe", "dumb"])
def test_without_a_screen_each_text_is_written_once(screen, monkeypatch, kind):
    pieces = traces.Pieces()
    out = screen() if kind == "dumb" else io.StringIO()
    if kind == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    unfinished = Trace("three", (Frame.of(0, 0.0, [Cell(MASK, 0, None, False)]),), {})
    watch(traces.by_call([*two_traces(pieces), unfinished]), pieces, MASK, out=out)
    lines = out.getvalue().splitlines()
    assert lines[1::2] == ["Say: it, and again it", "Say: nothing", "▒"]
    assert [line.split()[0] for line in lines[::2]] == ["one", "two", "three"]
    assert "\x1b" not in out.getvalue()


def test_line_breaks_are_kept_in_a_pipe_and_nothing_else():
    pieces, out = traces.Pieces(), io.StringIO()
    watch(traces.by_call([traces.trace(pieces, "a\nb\tc")]), pieces, MASK, out=out)
    assert out.getvalue().splitlines()[1:] == ["a", r"b\tc"]


def test_the_cursor_comes_back_after_an_interruption(screen):
    terminal, pieces = screen(), traces.Pieces()

    def interrupted():
        yield from list(traces.by_call(two_traces(pieces)))[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(interrupted(), pieces, MASK, out=terminal)
    assert not terminal.cursor_hidden
