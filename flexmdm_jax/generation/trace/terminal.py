"""Texts coming about in a terminal, redrawn in place."""

import dataclasses
import io
import itertools
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

from flexmdm_jax.generation.trace import palette
from flexmdm_jax.generation.trace.encoding import Piece
from flexmdm_jax.generation.trace.frames import Frame
from flexmdm_jax.generation.trace.lines import MASKS, Glyph, printable, wrapped
from flexmdm_jax.generation.trace.spans import Kind, Span, spans_of

_BOLD, _DIM, _REVERSED, _STRUCK = "1", "2", "7", "9"
_EFFECTS = {
    Kind.GIVEN: (_BOLD,),
    Kind.NEW: (_REVERSED,),
    Kind.MASK: (_DIM,),
    Kind.GONE: (_STRUCK,),
}
_UP, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[{}F", "\x1b[K", "\x1b[J"
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def watch(
    calls: Iterable[Mapping[str, Frame]],
    piece: Piece,
    mask: int,
    *,
    out: io.TextIOBase | None = None,
    pause: float = 0.0,
) -> None:
    """Shows texts while they come about, each call's frames in place of those before.

    New tokens stand on the colour of their confidence, older ones are written in it; masks are
    grey, new ones full; what was taken back is struck out. While frames come, the texts share the
    screen, which cuts off the ends of long ones; afterwards all stand there whole. Where nothing
    can be redrawn (no terminal, or TERM=dumb) every text is written once, as it is in the end.
    NO_COLOR leaves bold, reverse and strokes.

    Args:
      calls: After each call of the network the frames that it made, by the names of their texts;
        see Gathering.calls().
      piece: The bytes of each token.
      mask: MASK's id.
      out: Where to write; standard output unless told.
      pause: Seconds to wait after every call.
    """
    out = sys.stdout if out is None else out
    if not out.isatty() or os.environ.get("TERM") == "dumb":
        last = {name: frame for call in calls for name, frame in call.items()}
        for name, frame in last.items():
            out.write(_plain(name, frame, piece, mask))
        return
    screen = _Screen(out)
    texts: dict[str, _Text] = {}
    out.write(_HIDE_CURSOR)
    try:
        for call in calls:
            for name, frame in call.items():
                before = texts[name].frame if name in texts else None
                header = _header(name, frame, mask)
                texts[name] = _Text(header, frame, spans_of(frame, before, piece, mask))
            screen.draw(texts.values())
            time.sleep(pause)
        screen.draw(texts.values(), whole=True)
    finally:
        out.write(_SHOW_CURSOR)
        out.flush()


@dataclasses.dataclass(frozen=True)
class _Text:
    header: str
    frame: Frame
    spans: list[Span]


class _Screen:
    """The lines above the cursor that are ours to write again."""

    def __init__(self, out: io.TextIOBase):
        self._out = out
        self._drawn = 0
        self._colours = not os.environ.get("NO_COLOR")

    def draw(self, texts: Iterable[_Text], whole: bool = False) -> None:
        """Replaces what was drawn before, by no more than the screen holds unless whole."""
        columns, rows = shutil.get_terminal_size()
        # A terminal may break a line that is full, and the cursor has a line of its own.
        columns, rows = max(columns - 1, 2), rows - 1
        drawn = [self._lines(text, columns) for text in texts]
        lines = list(itertools.chain(*(drawn if whole else _fitting(drawn, rows))))
        back = _UP.format(self._drawn) if self._drawn else ""
        ours = "".join(f"{line}{_REST_OF_LINE}\n" for line in lines)
        self._out.write(back + ours + _REST_OF_SCREEN)
        self._out.flush()
        self._drawn = len(lines)

    def _lines(self, text: _Text, columns: int) -> list[str]:
        header = wrapped([Span(Kind.MASK, text.header)], columns)[0]
        return [self._line(glyphs) for glyphs in (header, *wrapped(text.spans, columns))]

    def _line(self, glyphs: Sequence[Glyph]) -> str:
        runs = itertools.groupby(glyphs, self._style)
        return "".join(_styled("".join(one.text for one in run), style) for style, run in runs)

    def _style(self, glyph: Glyph) -> tuple[str, ...]:
        """Returns the numbers that a terminal knows a style by."""
        span = glyph.span
        effects = (*_EFFECTS.get(span.kind, ()), *([_DIM] if glyph.sign else []))
        colour = None if span.step is None else palette.TERMINAL_STEPS[span.step]
        if span.kind in (Kind.GONE, Kind.AGAIN):
            colour = palette.TERMINAL_CORRECTED
        return (*effects, f"38;5;{colour}") if self._colours and colour is not None else effects


def _fitting(texts: Sequence[Sequence[str]], rows: int) -> list[Sequence[str]]:
    """Returns the beginnings of the first texts, as many lines as there are rows at the most."""
    texts = texts[: max(rows // 2, 1)]
    share = max(rows // max(len(texts), 1), 1)
    return [[*text[: share - 1], "…"] if len(text) > share else text for text in texts]


def _styled(text: str, style: Sequence[str]) -> str:
    return f"\x1b[{';'.join(style)}m{text}\x1b[m" if style else text


def _header(name: str, frame: Frame, mask: int) -> str:
    size, masks = len(frame.tokens), frame.tokens.count(mask)
    figures = f"call {frame.call}  t {frame.time:.3f}  {size} tokens  {masks} masks"
    return printable(f"{name}  {figures}")


def _plain(name: str, frame: Frame, piece: Piece, mask: int) -> str:
    """Returns a text below its figures, with its line breaks, other controls written out."""
    spans = spans_of(frame, None, piece, mask)
    text = "".join(MASKS.get(span.kind, span.text) for span in spans)
    lines = [_header(name, frame, mask), *map(printable, text.split("\n"))]
    return "".join(f"{line}\n" for line in lines)
