"""Traces as plain dicts come back as they were, through JSON, frame by frame."""

import json

import hypothesis
import hypothesis.strategies as st
import pytest
import traces

from flexmdm_jax.files import json_text
from flexmdm_jax.generation.trace.encoding import (
    frame_from_json,
    frame_to_json,
    pieces_to_json,
    player_data,
    trace_from_json,
    trace_to_json,
)
from flexmdm_jax.generation.trace.frames import Cell, Frame, Trace

MASK = traces.MASK


def rounded(trace):
    """Returns a trace with as many digits as are kept."""
    return Trace(
        trace.name,
        tuple(
            Frame.of(
                frame.call,
                round(frame.time, 6),
                [
                    cell
                    if cell.confidence is None
                    else cell._replace(confidence=float(f"{cell.confidence:.3g}"))
                    for cell in frame.cells()
                ],
            )
            for frame in trace.frames
        ),
        trace.details,
    )


@hypothesis.given(
    seed=st.integers(0, 10**6),
    per_call=st.sampled_from([1, 4]),
    corrections=st.sampled_from([0.0, 0.5]),
    stride=st.integers(1, 3),
)
@hypothesis.settings(max_examples=25)
def test_traces_come_back(seed, per_call, corrections, stride):
    trace = traces.trace(
        traces.Pieces(),
        traces.SHORT,
        prompt="A prompt:",
        seed=seed,
        per_call=per_call,
        corrections=corrections,
    )
    trace = Trace(trace.name, trace.frames[::stride], trace.details)
    sent = json.loads(json_text(trace_to_json(trace, MASK)))
    assert trace_from_json(sent) == rounded(trace)


cells = st.builds(
    Cell, st.integers(0, 2), st.integers(0, 3), st.sampled_from([None, 0.25]), st.booleans()
)


@hypothesis.given(st.lists(cells, max_size=8), st.lists(cells, max_size=8))
@hypothesis.settings(max_examples=150)
def test_any_frame_follows_any_other(old, new):
    """Whatever an engine says has happened, the reader gets the frame that was meant."""
    before, after = Frame.of(2, 0.5, old), Frame.of(3, 0.75, new)
    assert frame_from_json(frame_to_json(after, before, MASK), before) == after
    assert frame_from_json(frame_to_json(after, None, MASK), None) == after


def test_the_docstrings_example():
    given = [Cell(10 + i, 1, 0.5, False) for i in range(6)]
    tail = [Cell(20, 2, 0.5, False), Cell(21, 2, 0.5, False), Cell(MASK, 4, None, False)]
    before = Frame.of(4, 0.3, [*given, *tail])
    new = Cell(MASK, 5, None, False)
    after = Frame.of(5, 0.31, [*given[:2], new, *given[2:5], *tail[:2], Cell(50, 5, 0.83, False)])
    assert frame_to_json(after, before, MASK) == {
        "call": 5,
        "time": 0.31,
        "removed": [5],
        "inserted": [[2, MASK]],
        "altered": [[8, 50, 0.83]],
    }


def test_one_event_takes_few_bytes_however_long_the_text():
    long = [Cell(40_000 + i, 7, 0.123456789, False) for i in range(2000)]
    before = Frame.of(8, 0.4, [*long, Cell(MASK, 8, None, False)])
    after = Frame.of(9, 0.423456789, [*long, Cell(50_000, 9, 0.987654321, False)])
    assert len(json_text(frame_to_json(after, before, MASK))) < 80


def test_columns_of_a_frame_are_equally_long():
    with pytest.raises(ValueError, match="call 3: columns of different lengths"):
        Frame(3, 0.5, (1, 2), (0, 0), (None,), (True, True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"removed": [1]}, "removes what is not there"),
        ({"removed": [-1]}, "removes what is not there"),
        ({"inserted": [[2, 5]]}, "inserts at 2, beyond the end"),
        ({"altered": [[1, 5]]}, "alters what is not there"),
    ],
)
def test_frames_that_do_not_fit_are_refused(changes, message):
    before = Frame.of(1, 0.5, [Cell(MASK, 1, None, False)])
    with pytest.raises(ValueError, match=f"call 2 {message}"):
        frame_from_json({"call": 2, "time": 0.6, **changes}, before)


def test_pieces_are_texts_where_they_can_be():
    known = {1: b"a", 2: "é".encode(), 3: b"\xc3", 4: b"\xa9", 5: b"", 6: "\ufeff".encode()}
    assert pieces_to_json([3, 1, 1, 2, 4, 5, 6], known.__getitem__) == {
        **{"1": "a", "2": "é", "3": [0xC3], "4": [0xA9], "5": "", "6": "\ufeff"}
    }


def test_the_player_gets_every_token_that_was_ever_there():
    """A token that a corrector took away for good is none of the sample's."""
    pieces = traces.Pieces()
    gone, stays = pieces.id_of(b"gone"), pieces.id_of(b"stays")
    frames = (
        Frame.of(0, 0.0, [Cell(MASK, 0, None, False)]),
        Frame.of(1, 0.5, [Cell(gone, 1, 0.5, False)]),
        Frame.of(2, 1.0, [Cell(stays, 2, 0.5, False)]),
    )
    data = player_data([Trace("a", frames, {"seed": 1})], pieces, MASK)
    assert data["pieces"] == {str(gone): "gone", str(stays): "stays"}
    assert data["mask"] == MASK
    assert [trace_from_json(trace).name for trace in data["traces"]] == ["a"]
