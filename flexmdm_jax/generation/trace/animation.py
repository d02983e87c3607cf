"""How texts came about as an animated GIF, for places that play nothing else."""

import dataclasses
import functools
import io
import itertools
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFont

from flexmdm_jax.generation.trace import palette
from flexmdm_jax.generation.trace.encoding import Piece
from flexmdm_jax.generation.trace.frames import Frame, Trace
from flexmdm_jax.generation.trace.lines import Glyph, printable, wrapped
from flexmdm_jax.generation.trace.spans import Kind, Span, spans_of

# Pixels, and columns of text; DejaVu Sans Mono of this size is nine pixels to the character.
_FONT_SIZE, _COLUMN, _LINE, _MARGIN = 15, 9, 24, 24
_COLUMNS, _MOST_LINES = 72, 24
_INKS = {Kind.MASK: palette.MUTED, Kind.GONE: palette.CORRECTED}
# Milliseconds: of everything but the last frame, which is held, and the bounds of one frame.
_PLAYED, _SHORTEST, _LONGEST, _HELD = 9000, 60, 400, 3000


def gif(
    traces: Sequence[Trace],
    piece: Piece,
    mask: int,
    *,
    most_traces: int = 3,
    most_frames: int = 96,
) -> bytes:
    """Returns one animated GIF of the first traces, one below the other, that repeats for ever.

    Colours are those of the page on light paper. All texts keep the same time, in calls of the
    network: one that takes fewer calls stands still while the others go on. Characters that DejaVu
    Sans Mono lacks show as boxes, and lines after the 24th are left out.

    Args:
      traces: At least one, each with a frame.
      piece: The bytes of each token.
      mask: MASK's id.
      most_traces: How many are shown.
      most_frames: How many pictures there are; calls are thinned out evenly, and the first and the
        last are always there. At least 2.

    Raises:
      ValueError: If there is nothing to show.
    """
    traces = traces[:most_traces]
    if not traces or not all(trace.frames for trace in traces):
        raise ValueError("a GIF needs at least one trace, and traces with frames")
    calls = sorted({frame.call for trace in traces for frame in trace.frames})
    calls = [calls[i] for i in _thinned(len(calls), most_frames)]
    panels = [_panel(trace, calls, piece, mask) for trace in traces]
    pictures = [_picture(panels, i, call / max(calls[-1], 1)) for i, call in enumerate(calls)]
    pause = min(max(_PLAYED // len(calls), _SHORTEST), _LONGEST)
    file = io.BytesIO()
    pictures[0].save(
        file,
        "GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=[*[pause] * (len(calls) - 1), _HELD],
        loop=0,
    )
    return file.getvalue()


def _thinned(count: int, most: int) -> list[int]:
    """Returns at most so many of the first numbers, evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


@dataclasses.dataclass(frozen=True)
class _Panel:
    """One text's part of every picture: a line about it, and its own lines."""

    headers: list[str]
    texts: list[list[list[Glyph]]]

    @property
    def height(self) -> int:
        """Returns the pixels that its longest text takes, with a line's room below."""
        return _LINE * (max(map(len, self.texts)) + 2)


def _panel(trace: Trace, calls: Sequence[int], piece: Piece, mask: int) -> _Panel:
    """Returns what there is to see of a trace after each of these calls."""
    shown = [_frame_after(trace, call) for call in calls]
    headers, texts = [], []
    for before, frame in itertools.pairwise([None, *shown]):
        size, masks = len(frame.tokens), frame.tokens.count(mask)
        headers.append(f"{trace.name} · call {frame.call} · {size} tokens, {masks} masks")
        texts.append(wrapped(spans_of(frame, before, piece, mask), _COLUMNS)[:_MOST_LINES])
    return _Panel(headers, texts)


def _frame_after(trace: Trace, call: int) -> Frame:
    """Returns the last frame up to a call, or the first of all."""
    return next((frame for frame in reversed(trace.frames) if frame.call <= call), trace.frames[0])


def _picture(panels: Sequence[_Panel], number: int, share: float) -> Image.Image:
    """Returns a picture in colours of _colours(), its last line as long as the share gone by."""
    width = 2 * _MARGIN + _COLUMNS * _COLUMN
    height = 2 * _MARGIN + sum(panel.height for panel in panels)
    image = Image.new("RGB", (width, height), palette.PAPER)
    draw = ImageDraw.Draw(image)
    top = _MARGIN
    for panel in panels:
        header = Span(Kind.MASK, printable(panel.headers[number]))
        _write(draw, _MARGIN, top, wrapped([header], _COLUMNS)[0])
        for place, line in enumerate(panel.texts[number], start=1):
            _write(draw, _MARGIN, top + place * _LINE, line)
        top += panel.height
    end = width - _MARGIN
    draw.rectangle((_MARGIN, top, end, top + 1), fill=palette.RULE)
    draw.rectangle((_MARGIN, top, _MARGIN + share * (end - _MARGIN), top + 1), fill=palette.INK)
    return _reduced(image)


def _write(draw: ImageDraw.ImageDraw, left: int, top: int, line: Iterable[Glyph]) -> None:
    """Draws a line of text, stretches of a span at a time."""
    # Two masks are equal, and yet not one.
    for _, glyphs in itertools.groupby(line, lambda glyph: (id(glyph.span), glyph.sign)):
        run = list(glyphs)
        right = left + _COLUMN * sum(glyph.width for glyph in run)
        _draw_run(draw, (left, top, right), run[0], "".join(glyph.text for glyph in run))
        left = right


def _draw_run(
    draw: ImageDraw.ImageDraw, place: tuple[int, int, int], like: Glyph, text: str
) -> None:
    """Draws text from left to right of a line's place, (left, top, right)."""
    span = like.span
    left, top, right = place
    if not span.text:
        _draw_mask(draw, (left + 1, top + 3, right - 2, top + _LINE - 6), span.kind)
        return
    box = (left, top + 1, right - 1, top + _LINE - 4)
    if span.kind is Kind.NEW and span.step is not None:
        draw.rectangle(box, fill=palette.FILLS[span.step])
    elif span.kind is Kind.TOKEN and span.step is not None:
        draw.rectangle((left, box[3] - 1, right - 1, box[3]), fill=palette.LINES[span.step])
    ink = _INKS.get(span.kind, palette.MUTED if like.sign else palette.INK)
    draw.text((left, top + 2), text, fill=ink, font=_font(span.kind is Kind.GIVEN))
    if span.kind is Kind.GONE:
        draw.line((left, top + _LINE // 2 - 1, right - 1, top + _LINE // 2 - 1), fill=ink)


def _draw_mask(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], kind: Kind) -> None:
    if kind in (Kind.AGAIN, Kind.GONE):
        draw.rectangle(box, outline=palette.CORRECTED)
    else:
        draw.rectangle(box, fill=palette.ARRIVED if kind is Kind.ARRIVED else palette.MASK)


@functools.cache
def _font(bold: bool) -> ImageFont.FreeTypeFont:
    """Returns the font that matplotlib brings along."""
    import matplotlib

    name = "DejaVuSansMono-Bold.ttf" if bold else "DejaVuSansMono.ttf"
    return ImageFont.truetype(
        str(pathlib.Path(matplotlib.get_data_path(), "fonts/ttf", name)), _FONT_SIZE
    )


@functools.cache
def _colours() -> UInt8[np.ndarray, "n 3"]:
    """Returns the colours of all pictures, with steps from ink to paper for smooth letters."""
    grounds = [palette.PAPER, *palette.FILLS]
    pairs = [(palette.INK, ground) for ground in grounds]
    pairs += [(ink, palette.PAPER) for ink in (palette.MUTED, palette.CORRECTED)]
    ends = np.array([[ImageColor.getrgb(colour) for colour in pair] for pair in pairs])
    blends = [ends[:, 0] + part * (ends[:, 1] - ends[:, 0]) for part in (0, 0.25, 0.5, 0.75, 1)]
    plain = [palette.RULE, palette.MASK, palette.ARRIVED, *palette.LINES]
    plain = np.array([ImageColor.getrgb(colour) for colour in plain])
    return np.unique(np.concatenate([*blends, plain]).round().astype(np.uint8), axis=0)


def _reduced(image: Image.Image) -> Image.Image:
    """Returns a picture in the nearest of _colours(); Pillow's own way misses exact ones."""
    packed = np.asarray(image).astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    found, places = np.unique(packed, return_inverse=True)
    channels = np.stack([found >> 16, (found >> 8) & 255, found & 255], axis=-1).astype(int)
    distances = ((channels[:, None] - _colours().astype(int)) ** 2).sum(-1)
    reduced = Image.fromarray(distances.argmin(1).astype(np.uint8)[places], "P")
    reduced.putpalette(_colours().tobytes())
    return reduced
