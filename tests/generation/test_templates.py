"""Templates say what they look like, and every text can be said by one."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexmdm_jax.errors import UserError
from flexmdm_jax.generation.templates import parse_template


@pytest.mark.parametrize(
    ("text", "parts", "gaps"),
    [
        ("Once upon a<gap>", ("Once upon a",), (1,)),
        ("def f(x):\n<gap>\n  return y", ("def f(x):\n", "\n  return y"), (1,)),
        ("<gap>, said <gap>.", (", said ", "."), (0, 1)),
        ("<gap>", (), (0,)),
        ("<gap> <gap>", (" ",), (0, 1)),
        # Backslashes count right before a mark alone.
        (r"\<gap><gap>", ("<gap>",), (1,)),
        (r"C:\dir\\<gap>", ("C:\\dir\\",), (1,)),
        (r"\\\<gap>\n\<gap<gap>", (r"\<gap>\n\<gap",), (1,)),
        # What only looks like a mark.
        (r"\<GAP>, \<gap:5><gap>", ("<GAP>, <gap:5>",), (1,)),
        ("Vec<Gap>::new(<gap>)", ("Vec<Gap>::new(", ")"), (1,)),
        ("<gaps> a <gap && b> gap <b><gap>", ("<gaps> a <gap && b> gap <b>",), (1,)),
    ],
)
def test_marks_are_gaps_between_texts(text, parts, gaps):
    assert parse_template(text) == (parts, gaps)


@pytest.mark.parametrize(
    ("text", "mark", "message"),
    [
        ("", "<gap>", "^the template has no <gap>; write it where text is to be generated$"),
        ("a b", "___", "^the template has no ___; write"),
        (r"a\<gap>", "<gap>", r"^the template has no <gap> \('<gap>' is text there\); write"),
        ("a<GAP>", "<gap>", r"^the template has no <gap> \('<GAP>' is text there\); write"),
        ("a\n\n<gap><gap>b", "<gap>", "^line 3 of the template: two <gap> side by side"),
        (r"<gap>\\<gap><gap>", "<gap>", "^line 1 of the template: two <gap> side by side"),
        ("a <GAP>", "<gap>", r"^line 1 of the template: '<GAP>' is no mark; write <gap> for a gap"),
        ("a\n<gap:5>", "<gap>", r"^line 2 of the .*, or \\<gap:5> for that text itself$"),
        (r"a \\<gap/>", "<gap>", "'<gap/>' is no mark"),
        ("<gap> [Gap]", "[gap]", r"'\[Gap\]' is no mark; write \[gap\]"),
        *((f"x{wrong}<gap>", "<gap>", "is no mark") for wrong in ("<gap1>", "< gap >", "</gap>")),
        *((f"x{wrong}<gap>", "<gap>", "is no mark") for wrong in ("<gap 5>", "<gap=5>", "<gap_1>")),
        ("a", "", "^mark = ''; a mark is some characters"),
        ("a", r"\gap", "none of them a backslash$"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(text, mark, message):
    with pytest.raises(UserError, match=message) as error:
        parse_template(text, mark)
    assert "\n" not in str(error.value)


PARTS = st.text(st.sampled_from("<>\\a\n"), min_size=1, max_size=8)


@settings(max_examples=200)
@given(st.lists(PARTS, max_size=4), st.booleans(), st.booleans())
def test_any_texts_can_be_written(parts, starts, ends):
    gaps = [*[0] * (starts or not parts), *range(1, len(parts)), *[len(parts)] * ends]
    gaps = sorted(set(gaps)) or [len(parts)]
    written = ""
    for place in range(len(parts) + 1):
        written += "<>" if place in gaps else ""
        if place < len(parts):
            escaped = re.sub(r"(\\*)<>", r"\1\1\\<>", parts[place])
            before_gap = place + 1 in gaps
            written += re.sub(r"(\\+)\Z", r"\1\1", escaped) if before_gap else escaped
    assert parse_template(written, "<>") == (tuple(parts), tuple(gaps))


@pytest.mark.parametrize(
    "piece", ["\\", "<", "< ", "<gap:", "<gap ", r"\<gap>", "a<gap>", "</", "<gap1"]
)
def test_long_texts_take_no_more_than_their_length(piece):
    """In quadratic time each of these would take minutes."""
    parse_template(f"{piece * 200_000} <gap>")
