"""The animated GIF, as a reader of GIFs sees it."""

import io

import numpy as np
import PIL.Image
import PIL.ImageColor
import pytest
import traces

from flexmdm_jax.generation.trace import palette
from flexmdm_jax.generation.trace.animation import gif
from flexmdm_jax.generation.trace.frames import Cell, Frame, Trace

MASK = traces.MASK


def opened(data):
    return PIL.Image.open(io.BytesIO(data))


def pictures(data):
    """Returns (pictures, milliseconds of each)."""
    image = opened(data)
    shown, pauses = [], []
    for number in range(image.n_frames):
        image.seek(number)
        shown.append(image.convert("RGB"))
        pauses.append(image.info["duration"])
    return shown, pauses


def where(picture, colour):
    """Returns which pixels have a colour, row by row."""
    return (np.asarray(picture) == PIL.ImageColor.getrgb(colour)).all(-1)


def has(picture, colour):
    return where(picture, colour).any()


@pytest.fixture(scope="module")
def pieces():
    return traces.Pieces()


def states(pieces):
    """Returns a trace through every kind of token."""
    given = Cell(pieces.id_of(b"given"), 0, None, True)
    mask = lambda call: Cell(MASK, call, None, False)  # noqa: E731
    token = Cell(pieces.id_of(b" token"), 2, 0.95, False)
    other = Cell(pieces.id_of(b" other"), 4, 0.05, False)
    frames = (
        Frame.of(0, 0.0, [given]),
        Frame.of(1, 0.2, [given, mask(1)]),
        Frame.of(2, 0.4, [given, token]),
        Frame.of(3, 0.6, [given, mask(3)]),
        Frame.of(4, 0.8, [given, other]),
        Frame.of(5, 1.0, [given, other]),
    )
    return Trace("states", frames, {})


def test_every_state_has_its_colour(pieces):
    shown, _ = pictures(gif([states(pieces)], pieces, MASK))
    assert len(shown) == 6
    wanted = [set(), {palette.ARRIVED}, {palette.FILLS[4]}, {palette.CORRECTED}]
    wanted += [{palette.FILLS[0]}, {palette.LINES[0]}]
    every = set().union(*wanted)
    for picture, colours in zip(shown, wanted, strict=True):
        assert {colour for colour in every if has(picture, colour)} == colours
        assert has(picture, palette.PAPER)
        assert has(picture, palette.INK)


def test_neighbouring_masks_can_be_counted(pieces):
    cells = [Cell(MASK, 0, None, False)] * 5
    [picture], _ = pictures(gif([Trace("masks", (Frame.of(0, 0.0, cells),), {})], pieces, MASK))
    # Below the line about it, whose letters have greys of their own.
    columns = where(picture, palette.MASK)[48:].any(0)
    assert np.count_nonzero(columns[1:] & ~columns[:-1]) == 5


@pytest.fixture(scope="module")
def long(pieces):
    return traces.trace(pieces, traces.TEXT, seed=3, per_call=1)


def test_frames_are_thinned_out_with_the_first_and_the_last(pieces, long):
    few, pauses = pictures(gif([long], pieces, MASK, most_frames=5))
    assert len(few) == 5
    ends = Trace(long.name, (long.frames[0], long.frames[-1]), {})
    [first, last], _ = pictures(gif([ends], pieces, MASK))
    assert few[0].tobytes() == first.crop((0, 0, *few[0].size)).tobytes()
    # In one of them more is new, but all letters are where they are in the other.
    ink = [where(picture, palette.INK) for picture in (few[-1], last, few[-2])]
    same, other = ((ink[0] & one).sum() / ink[0].sum() for one in ink[1:])
    assert same > 0.98 > 0.7 > other
    assert pauses[-1] > 5 * max(pauses[:-1])


def test_it_repeats_for_ever_and_is_small(pieces, long):
    data = gif([long], pieces, MASK, most_frames=12)
    image = opened(data)
    assert image.info["loop"] == 0
    assert image.width < 800
    assert len(data) < 12 * 10_000


def test_texts_stand_below_each_other_and_end_when_they_end(pieces):
    short = states(pieces)
    longer = Trace(
        "longer", tuple(Frame.of(c, c / 9, short.frames[0].cells()) for c in range(10)), {}
    )
    shown, _ = pictures(gif([short, longer], pieces, MASK))
    alone, _ = pictures(gif([short], pieces, MASK))
    height = alone[0].height - 30
    assert shown[0].height > alone[0].height
    for number, picture in enumerate(shown):
        own = alone[min(number, len(alone) - 1)]
        box = (0, 0, own.width, height)
        assert number >= len(alone) - 1 or picture.crop(box).tobytes() == own.crop(box).tobytes()
    assert gif([short] * 5, pieces, MASK) == gif([short] * 3, pieces, MASK)


def test_long_texts_are_cut(pieces):
    cells = [Cell(pieces.id_of(b"a line\n"), 0, None, True)] * 300
    [picture], _ = pictures(gif([Trace("long", (Frame.of(0, 0.0, cells),), {})], pieces, MASK))
    assert picture.height < 800


def test_names_are_one_line_whatever_they_hold(pieces):
    frames = states(pieces).frames[:1]
    named, odd = (Trace(name, frames, {}) for name in ("a", "\x1b\n\tname \ud83d" * 30))
    sizes = {opened(gif([trace], pieces, MASK)).size for trace in (named, odd)}
    assert len(sizes) == 1


@pytest.mark.parametrize("shown", [[], [Trace("empty", (), {})]])
def test_there_must_be_something_to_show(pieces, shown):
    with pytest.raises(ValueError, match="a GIF needs at least one trace"):
        gif(shown, pieces, MASK)
