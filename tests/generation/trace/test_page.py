"""The page as a file: what it holds, what it could load, how large it is."""

import html.parser
import json
import re

import traces

from flexmdm_jax.generation.trace.encoding import player_data, trace_from_json, trace_to_json
from flexmdm_jax.generation.trace.frames import Cell, Frame, Trace
from flexmdm_jax.generation.trace.page import page

MASK = traces.MASK


class Reader(html.parser.HTMLParser):
    """Collects elements, and what stands in scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self._script = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._script = tag == "script"

    def handle_endtag(self, tag):
        self._script = False

    def handle_data(self, data):
        if self._script:
            self.scripts.append(data)


def data_of(text):
    """Returns the JSON in a page."""
    return json.loads(Reader(text).scripts[0])


def test_a_page_holds_the_traces():
    pieces = traces.Pieces()
    shown = [traces.trace(pieces, " a text", seed=seed, name=str(seed)) for seed in range(3)]
    data = data_of(page(shown, pieces, MASK))
    assert data == json.loads(json.dumps(player_data(shown, pieces, MASK)))
    sent = [trace_from_json(trace_to_json(trace, MASK)) for trace in shown]
    assert [trace_from_json(trace) for trace in data["traces"]] == sent


def test_a_name_may_hold_half_of_a_surrogate_pair():
    pieces = traces.Pieces()
    shown = traces.trace(pieces, " a text", seed=0, name="\ud83d")
    text = page([shown], pieces, MASK)
    text.encode()
    assert data_of(text)["traces"][0]["name"] == "\ud83d"


HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "{{player.js}}{{data}}",
    "\u2028]]>&lt;\x00\r",
    "\\u003c/script>",
)


def test_no_text_ends_the_data():
    pieces = traces.Pieces()
    cells = [Cell(pieces.id_of(text.encode()), 1, 0.5, False) for text in HOSTILE]
    trace = Trace(HOSTILE[0], (Frame.of(1, 1.0, cells),), {HOSTILE[0]: HOSTILE[1]})
    text = page([trace], pieces, MASK)
    data = data_of(text)
    assert tuple(data["pieces"].values()) == HOSTILE
    assert data["traces"][0]["name"] == HOSTILE[0]
    assert data["traces"][0]["details"] == {HOSTILE[0]: HOSTILE[1]}
    harmless = Reader(page([], pieces, MASK))
    assert Reader(text).elements == harmless.elements
    assert Reader(text).scripts[1:] == harmless.scripts[1:]


def test_nothing_is_loaded():
    text = page([], traces.Pieces(), MASK)
    elements = Reader(text).elements
    assert {tag for tag, _ in elements} <= {
        *("html", "head", "meta", "title", "style", "body", "header", "h1", "button", "svg"),
        *("path", "noscript", "main", "script"),
    }
    assert not [attributes for _, attributes in elements if {"src", "href"} & set(attributes)]
    assert set(re.findall(r"https?://[\w./]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"url\(|@import", text)
    [policy] = [a["content"] for _, a in elements if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_a_frame_costs_what_changed():
    """A page of hundreds of tokens and thousands of events stays small: text counts once."""
    pieces = traces.Pieces()
    words = " ".join(f"word{chr(97 + i % 26)}" for i in range(300))
    trace = traces.trace(pieces, words, seed=1, per_call=0.5)
    frames = len(trace.frames)
    assert frames > 500
    size = len(page([trace], pieces, MASK)) - len(page([], pieces, MASK))
    assert size < 90 * frames


def test_titles_count():
    pieces = traces.Pieces()
    one = traces.trace(pieces, "a")
    assert "<title>How a text came about</title>" in page([one], pieces, MASK)
    assert "<title>How 2 texts came about</title>" in page([one, one], pieces, MASK)
