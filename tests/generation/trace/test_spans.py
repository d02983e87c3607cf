"""What is seen of a frame: whole characters, and what became of each token."""

import hypothesis
import hypothesis.strategies as st
import pytest
import traces

from flexmdm_jax.generation.trace.frames import Cell, Frame
from flexmdm_jax.generation.trace.lines import glyphs_of, printable, wrapped
from flexmdm_jax.generation.trace.spans import Kind, Span, spans_of, step_of

MASK = traces.MASK


def of(pieces, call, *parts):
    """Returns a frame of bytes, each unmasked by a call, and None for masks that it inserted."""
    return Frame.of(
        call,
        0.5,
        [
            Cell(MASK, call, None, False)
            if part is None
            else Cell(pieces.id_of(part), call, 0.5, False)
            for part in parts
        ],
    )


@hypothesis.given(st.lists(st.one_of(st.none(), st.binary(max_size=4)), max_size=12))
@hypothesis.example([b"\xc2", b"", b"\x80"])
@hypothesis.settings(max_examples=150)
def test_text_between_masks_is_decoded_as_a_whole(parts):
    pieces = traces.Pieces()
    spans = spans_of(of(pieces, 1, *parts), None, pieces, MASK)
    joined = [b""]
    for part in parts:
        if part is None:
            joined.append(b"")
        else:
            joined[-1] += part
    shown = "".join("|" if span.kind is Kind.MASK else span.text for span in spans)
    # A | may stand in the text as well as for a mask.
    assert shown == "|".join(run.decode(errors="replace") for run in joined)


def test_tokens_that_share_a_character_are_one_span_as_sure_as_the_least_sure():
    pieces = traces.Pieces()
    first, second = "é".encode()[:1], "é".encode()[1:]
    frame = Frame.of(
        3,
        0.5,
        [
            Cell(pieces.id_of(b"caf"), 1, 0.95, False),
            Cell(pieces.id_of(first), 2, 0.95, False),
            Cell(pieces.id_of(second), 3, 0.2, False),
            Cell(pieces.id_of(b"!"), 1, 0.5, False),
        ],
    )
    before = Frame.of(2, 0.4, [*frame.cells()[:2], Cell(MASK, 2, None, False), frame.cells()[3]])
    assert spans_of(frame, before, pieces, MASK) == [
        Span(Kind.TOKEN, "caf", 4),
        Span(Kind.NEW, "é", 1),
        Span(Kind.TOKEN, "!", 2),
    ]


def test_every_kind_is_told():
    pieces = traces.Pieces()
    given = Cell(pieces.id_of(b"given"), 0, None, True)
    one, two, three = (Cell(pieces.id_of(bit), 1, 0.7, False) for bit in (b"1", b"2", b"3"))
    old_mask, mask = Cell(MASK, 1, None, False), Cell(MASK, 2, None, False)
    new = Cell(pieces.id_of(b"4"), 2, None, False)
    before = Frame.of(1, 0.1, [given, one, two, three, old_mask, old_mask])
    after = Frame.of(2, 0.2, [given, mask, one, mask, old_mask, new])
    assert spans_of(after, before, pieces, MASK) == [
        Span(Kind.GIVEN, "given"),
        Span(Kind.ARRIVED, ""),
        Span(Kind.TOKEN, "1", 3),
        # One of the two was removed, the other masked again: that cannot be told apart.
        Span(Kind.GONE, "23"),
        Span(Kind.AGAIN, ""),
        Span(Kind.MASK, ""),
        Span(Kind.NEW, "4"),
    ]


def test_nothing_is_new_where_nothing_was_before():
    pieces = traces.Pieces()
    spans = spans_of(of(pieces, 0, b"a", None), None, pieces, MASK)
    assert [span.kind for span in spans] == [Kind.TOKEN, Kind.MASK]


def test_removed_masks_leave_a_trace():
    pieces = traces.Pieces()
    before, after = of(pieces, 1, b"a", None), of(pieces, 1, b"a")
    assert spans_of(after, before, pieces, MASK)[1:] == [Span(Kind.GONE, "")]


@pytest.mark.parametrize(
    ("confidence", "step"), [(0.0, 0), (0.0999, 0), (0.1, 1), (0.3, 2), (0.6, 3), (0.9, 4), (1, 4)]
)
def test_steps_of_the_scale(confidence, step):
    assert step_of(float(confidence)) == step


some_text = st.text(st.sampled_from("ab   東é\u0301🙂\t\n\r\x1b\u202e"), max_size=20)


@hypothesis.given(st.lists(some_text, max_size=8), st.integers(2, 30))
@hypothesis.settings(max_examples=100)
def test_lines_hold_everything_and_are_no_wider_than_asked(texts, columns):
    spans = [Span(Kind.TOKEN, text) for text in texts]
    lines = wrapped(spans, columns)
    assert all(sum(glyph.width for glyph in line) <= columns for line in lines)
    assert [glyph for line in lines for glyph in line] == list(glyphs_of(spans))
    assert all(glyph.text.isprintable() for line in lines for glyph in line)
    assert sum(glyph.ends_line for line in lines for glyph in line) == "".join(texts).count("\n")


def lines_of(text, columns):
    return ["".join(x.text for x in line) for line in wrapped([Span(Kind.TOKEN, text)], columns)]


def test_lines_break_behind_words():
    assert lines_of("the quick brown fox", 10) == ["the quick ", "brown fox"]
    assert lines_of("a verylongword indeed", 8) == ["a ", "verylong", "word ", "indeed"]
    # As wide as two letters each.
    assert lines_of("東京東京", 5) == ["東京", "東京"]
    assert lines_of("a\nb", 5) == ["a↵", "b"]
    assert lines_of("\tb", 5) == ["→   b"]


def test_combining_characters_take_no_room():
    assert lines_of("e\u0301e\u0301e\u0301", 3) == ["e\u0301e\u0301e\u0301"]


def test_controls_are_written_out():
    assert printable("a\x1b[31m\x07\u202e\x9b\r") == r"a\x1b[31m\x07\u202e\x9b\r"
    assert printable("naïve 東京") == "naïve 東京"
