"""The player in a browser: what people see, press and hear, and that nothing else happens."""

import contextlib
import importlib.resources
import json

import browsers
import pytest
import traces

from flexmdm_jax.files import json_text
from flexmdm_jax.generation.trace.encoding import frame_to_json, pieces_to_json
from flexmdm_jax.generation.trace.frames import Cell, Frame, Trace
from flexmdm_jax.generation.trace.page import page
from flexmdm_jax.generation.trace.spans import Kind, spans_of

MASK = traces.MASK
PIECES = traces.Pieces()
SAMPLES = [
    traces.trace(
        PIECES, traces.TEXT, prompt=traces.PROMPT, seed=1, name="long", per_call=4, corrections=0.3
    ),
    traces.trace(PIECES, traces.SHORT, seed=2, name="short", per_call=2),
    traces.trace(PIECES, "東京 café", seed=3, name="characters", per_call=1),
]
LONG, SHORT, CHARACTERS = SAMPLES

# What the player has been told to show it draws before the next painting, and this comes after it.
PAINTED = "await new Promise(requestAnimationFrame);"
EVERY_FRAME = """async () => {
  const shown = [];
  for (let i = 0; i < player.count; i++) {
    player.show(i);
    PAINTED
    shown.push([...document.querySelectorAll(".text > *")].map(
      (x) => [x.classList[0], x.dataset.text ?? x.textContent, x.className]));
  }
  return shown;
}""".replace("PAINTED", PAINTED)


@pytest.fixture
def opened(browser, tmp_path):
    """Opens pages of traces as files; they may neither complain nor ask for anything else."""
    watches = []

    def open_page(shown=SAMPLES, pieces=PIECES, **settings):
        path = tmp_path / f"{len(watches)}.html"
        path.write_text(page(shown, pieces, MASK), "utf-8")
        watch = stack.enter_context(browsers.watched(browser, **settings))
        watches.append((watch, path.as_uri()))
        watch.page.goto(path.as_uri())
        return painted(watch.page)

    with contextlib.ExitStack() as stack:
        yield open_page
        for watch, address in watches:
            assert not watch.complaints
            assert watch.requests == [address]


def painted(player):
    player.evaluate(f"async () => {{ {PAINTED} }}")
    return player


def text(player):
    return painted(player).locator(".text").text_content()


def state(player):
    return tuple(player.evaluate("[player.sample, player.position, player.playing]"))


def sample_text(sample, pieces=PIECES):
    return b"".join(map(pieces, sample.frames[-1].tokens)).decode()


def last(sample):
    return len(sample.frames) - 1


def test_the_last_frame_is_the_sample(opened):
    player = opened()
    for number, sample in enumerate(SAMPLES):
        player.get_by_label("Sample", exact=True).select_option(sample.name)
        assert text(player) == sample_text(sample)
        assert state(player) == (number, last(sample), False)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_every_frame_shows_what_python_says(opened, sample):
    """The page, GIFs and terminals tell the same story, each with a reader of its own."""
    shown = opened([sample]).evaluate(EVERY_FRAME)
    assert len(shown) == len(sample.frames)
    for before, frame, elements in zip([None, *sample.frames], sample.frames, shown, strict=False):
        spans = spans_of(frame, before, PIECES, MASK)
        assert [kind for kind, *_ in elements] == [span.kind.value for span in spans]
        for (_, shown_text, classes), span in zip(elements, spans, strict=True):
            wanted = span.text.replace("\n", "↵") if span.kind is Kind.GONE else span.text
            assert shown_text == (wanted or "▒")
            step = [] if span.step is None else [f"step-{span.step}"]
            assert [name for name in classes.split() if name.startswith("step")] == step


def test_masks_arrive_and_are_unmasked(opened):
    """Against the trace's own truth: which places are there, and which are masks."""
    frames, places = traces.grow(PIECES, traces.SHORT, "", 5, per_call=2, corrections=0.0)
    shown = opened([Trace("a", tuple(frames), {})]).evaluate(EVERY_FRAME)
    for number in range(1, len(frames)):
        old = dict(zip(places[number - 1], frames[number - 1].tokens, strict=True))
        kinds = []
        for place, token in zip(places[number], frames[number].tokens, strict=True):
            if token == MASK:
                kinds.append("mask" if place in old else "arrived")
            else:
                kinds.append("new" if old[place] == MASK else "token")
        assert [kind for kind, *_ in shown[number]] == kinds


def test_corrections_are_noticed(opened):
    kept, again, gone = (Cell(PIECES.id_of(bit), 1, 0.5, False) for bit in (b"k", b"a", b"g"))
    mask = Cell(MASK, 2, None, False)
    frames = (
        Frame.of(1, 0.1, [kept, again, kept, gone]),
        Frame.of(2, 0.2, [kept, mask, kept]),
    )
    player = opened([Trace("a", frames, {})])
    struck = "el => getComputedStyle(el, '::before').textDecorationLine"
    marks = player.locator(".text .gone")
    assert marks.evaluate_all("all => all.map((el) => el.dataset.text)") == ["a", "g"]
    assert marks.first.evaluate(struck) == "line-through"
    assert player.locator(".text .again").count() == 1
    assert text(player) == "k▒k"


def test_figures_of_a_frame(opened):
    player = opened()
    player.evaluate("player.show(7)")
    frame = LONG.frames[7]
    masks = frame.tokens.count(MASK)
    words = [f"call {frame.call}/{LONG.frames[-1].call}", f"time {frame.time:.3f}"]
    words += [f"{len(frame.tokens)} tokens", f"{masks} mask{'s' * (masks != 1)}"]
    assert painted(player).locator(".figures span").all_text_contents() == words
    assert player.get_by_label("Frame", exact=True).get_attribute("aria-valuetext") == (
        ", ".join(words)
    )
    details = player.locator("dl div").evaluate_all(
        "all => all.map((x) => [...x.children].map((y) => y.textContent))"
    )
    assert details == [[name, shown(value)] for name, value in LONG.details.items()]


def shown(value):
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def test_keys(opened):
    player = opened()
    press = player.keyboard.press
    end = last(LONG)
    for key, wanted in [
        ("ArrowLeft", (0, end - 1)),
        ("ArrowLeft", (0, end - 2)),
        ("ArrowRight", (0, end - 1)),
        ("Home", (0, 0)),
        ("ArrowLeft", (0, 0)),
        ("ArrowRight", (0, 1)),
        ("End", (0, end)),
        ("ArrowRight", (0, end)),
        ("ArrowDown", (1, last(SHORT))),
        ("ArrowDown", (2, last(CHARACTERS))),
        ("ArrowDown", (2, last(CHARACTERS))),
        ("ArrowUp", (1, last(SHORT))),
    ]:
        press(key)
        assert state(player) == (*wanted, False), key
    assert text(player) == sample_text(SHORT)
    # On the slider they do no more than elsewhere.
    player.get_by_label("Frame", exact=True).focus()
    press("ArrowLeft")
    assert state(player) == (1, last(SHORT) - 1, False)
    press("ArrowUp")
    assert state(player) == (0, end, False)


def test_space_plays_or_presses_the_button_that_has_the_focus(opened):
    player = opened()
    player.keyboard.press("Space")
    assert state(player)[2]
    player.keyboard.press("Space")
    assert not state(player)[2]
    player.get_by_label("Play", exact=True).focus()
    player.keyboard.press("Space")
    assert state(player)[2]
    painted(player).get_by_label("Pause", exact=True).click()
    assert not state(player)[2]
    player.get_by_label("First frame", exact=True).focus()
    player.keyboard.press("Space")
    assert state(player) == (0, 0, False)


def test_buttons(opened):
    player = opened()
    for label, wanted in [
        ("First frame", (0, 0)),
        ("Next frame", (0, 1)),
        ("Last frame", (0, last(LONG))),
        ("Frame before", (0, last(LONG) - 1)),
        ("Next sample", (1, last(SHORT))),
        ("Sample before", (0, last(LONG))),
    ]:
        player.get_by_label(label, exact=True).click()
        assert state(player) == (*wanted, False), label


def test_playing_ends_with_the_last_frame(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page([LONG], PIECES, MASK), "utf-8")
    with browsers.watched(browser) as watch:
        watch.page.clock.install()
        watch.page.goto(path.as_uri())
        watch.page.clock.run_for(100)
        watch.page.get_by_label("Speed").select_option("4 ×")
        watch.page.keyboard.press("Space")
        watch.page.clock.run_for(1000)
        _, position, playing = state(watch.page)
        assert 0 < position < last(LONG)
        assert playing
        watch.page.clock.run_for(6_000)
        assert state(watch.page) == (0, last(LONG), False)
        assert watch.page.locator(".text").text_content() == sample_text(LONG)


def test_the_slider_and_the_curves_lead_to_frames(opened):
    player = opened()
    player.get_by_label("Frame", exact=True).fill("5")
    assert state(player) == (0, 5, False)
    at_five = text(player)
    box = player.locator(".curves").bounding_box()
    player.mouse.click(box["x"] + 1, box["y"] + box["height"] / 2)
    assert state(player)[1] == 0
    assert text(player) == traces.PROMPT != at_five
    player.mouse.move(box["x"] + 1, box["y"] + 5)
    player.mouse.down()
    player.mouse.move(box["x"] + box["width"] / 2, box["y"] + 5)
    player.mouse.up()
    calls = LONG.frames[-1].call
    nearest = min(LONG.frames, key=lambda frame: abs(frame.call - calls / 2))
    assert state(player)[1] == LONG.frames.index(nearest)
    cursor = painted(player).locator(".cursor").bounding_box()
    assert cursor["x"] == pytest.approx(box["x"] + box["width"] * nearest.call / calls, abs=1)


def test_the_curves_are_length_and_masks(opened):
    player = opened([SHORT])
    top = max(len(frame.tokens) for frame in SHORT.frames)
    for name, height in [
        ("length", lambda frame: len(frame.tokens)),
        ("masks", lambda frame: frame.tokens.count(MASK)),
    ]:
        path = player.locator(f".plot .{name}").get_attribute("d")
        points = [tuple(map(int, point.split())) for point in path[1:].split("L")]
        assert points == [(frame.call, top - height(frame)) for frame in SHORT.frames]
    named, plot = (player.locator(place).bounding_box() for place in (".names", ".plot"))
    assert named["y"] + named["height"] <= plot["y"], "names lie on the curves"


def background(player):
    return player.evaluate("getComputedStyle(document.documentElement).backgroundColor")


def test_light_and_dark(opened):
    paper = {"light": "rgb(251, 250, 247)", "dark": "rgb(21, 22, 26)"}
    for scheme, other in [("light", "dark"), ("dark", "light")]:
        player = opened(color_scheme=scheme)
        assert background(player) == paper[scheme]
        player.get_by_label("Light or dark").click()
        assert background(player) == paper[other]
        player.get_by_label("Light or dark").click()
        assert background(player) == paper[scheme]


def test_a_phone_scrolls_in_one_direction(opened):
    pieces = traces.Pieces()
    word = pieces.id_of(b"Donaudampfschifffahrtsgesellschaftskapitaensmuetze")
    cells = [Cell(word, 1, 0.5, False)] * 3
    frames = (Frame.of(1, 0.5, []), *(Frame.of(call, 1.0, cells) for call in range(2, 10)))
    wide = Trace("a-name-without-any-space" * 3, frames, {"a" * 60: "b" * 60})
    for player in (
        opened(viewport={"width": 360, "height": 640}),
        opened([wide], pieces, viewport={"width": 360, "height": 640}),
    ):
        for position in range(0, player.evaluate("player.count"), 8):
            player.evaluate(f"player.show({position})")
            width = painted(player).evaluate("document.documentElement.scrollWidth")
            assert width <= 360, position
        bar = player.locator(".bar").bounding_box()
        assert bar["y"] + bar["height"] <= 640
        assert bar["height"] < 640 / 2


def test_motion_is_left_out_where_it_is_not_wanted(opened):
    """Masks that have just come, at the first frame that has some."""
    running = "document.getAnimations().length"
    player = opened([SHORT], reduced_motion="no-preference")
    player.evaluate("player.show(1)")
    assert painted(player).evaluate(running) > 0
    player = opened([SHORT], reduced_motion="reduce")
    player.evaluate("player.show(1)")
    assert painted(player).locator(".text .arrived").count() > 0
    assert player.evaluate(running) == 0


HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "<script>alert(2)</script>",
    "<!--",
    "{{player.js}}",
    "\u2028\u202e]]>&lt;\x1b\r\x00",
    '"><svg onload=alert(3)>',
)


def test_hostile_texts_are_texts(opened):
    pieces = traces.Pieces()
    mask = Cell(MASK, 1, None, False)
    cells = [Cell(pieces.id_of(text.encode()), 1, 0.5, False) for text in HOSTILE]
    frames = (
        Frame.of(1, 0.3, cells),
        # Taken back, where they show as what has gone.
        Frame.of(2, 0.6, [mask._replace(changed=2)] * 3),
        Frame.of(3, 1.0, cells),
    )
    trace = Trace(HOSTILE[0], frames, {HOSTILE[0]: HOSTILE[1]})
    player = opened([trace], pieces)
    dialogs = []
    player.on("dialog", lambda dialog: dialogs.append(dialog))
    for position in (0, 1, 2):
        player.evaluate(f"player.show({position})")
        painted(player)
        assert player.locator("img, iframe, object, embed, link, script").count() == 3
        assert player.locator("[onerror], [onload]").count() == 0
    assert player.evaluate("document.querySelector('.text').textContent") == "".join(HOSTILE)
    assert player.locator("option").first.text_content() == HOSTILE[0]
    assert player.locator("dd").text_content() == HOSTILE[1]
    assert not dialogs


def test_a_script_that_came_in_would_not_run(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page(SAMPLES, PIECES, MASK), "utf-8")
    insert = """() => {
      const script = document.createElement("script");
      script.textContent = "window.came_in = true";
      document.body.append(script);
      const image = new Image();
      image.src = "https://example.org/a.png";
      return window.came_in ?? false;
    }"""
    with browsers.watched(browser) as watch:
        watch.page.goto(path.as_uri())
        with watch.page.expect_event("requestfailed") as failed:
            assert watch.page.evaluate(insert) is False
        assert failed.value.failure == "csp"
        assert any("script" in text and "Policy" in text for text in watch.complaints)


def test_characters_cut_at_tokens_edges_are_joined(opened):
    pieces = traces.Pieces()
    bits = [b"caf", b"\xc3", b"", b"\xa9", b" ", b"\xf0\x9f", b"\x98\x80!", b"\xe6\x9d", b"x", b""]
    cells = [Cell(pieces.id_of(bit), 1, 0.95 - i / 20, False) for i, bit in enumerate(bits)]
    split = [*cells[:3], Cell(MASK, 1, None, False), *cells[3:]]
    frames = (Frame.of(1, 0.5, split), Frame.of(2, 1.0, cells))
    player = opened([Trace("a", frames, {})], pieces)
    assert text(player) == "café 😀!\ufffdx"
    titles = player.locator(".text > :not(.gone)").evaluate_all("all => all.map((x) => x.title)")
    assert titles[1].startswith("“é” · tokens 2 + 3 + 4 · call 1 · 90 % · 85 % · 80 %")
    assert "not UTF-8: E6 9D" in titles[4]
    player.evaluate("player.show(0)")
    assert text(player) == "caf\ufffd▒\ufffd 😀!\ufffdx"


def test_what_cannot_be_seen_is_shown_and_stays_what_it_is(opened):
    pieces = traces.Pieces()
    written = "a\n\tb \u202e\u200b\x07\u200d"
    cells = [Cell(pieces.id_of(written.encode()), 1, 0.5, False)]
    player = opened([Trace("a", (Frame.of(1, 1.0, cells),), {})], pieces)
    assert text(player) == written
    signs = player.locator(".text .newline, .text .tab, .text .control").evaluate_all(
        "all => all.map((x) => [x.className, x.dataset.code, getComputedStyle(x, '::before')."
        "content])"
    )
    assert signs == [
        ["newline", "000A", '"↵"'],
        ["tab", "0009", '"→"'],
        ["control", "202E", '"202E"'],
        ["control", "200B", '"200B"'],
        ["control", "0007", '"0007"'],
    ]


def test_given_text_and_new_text_look_different(opened):
    player = opened()
    kinds = [Kind.GIVEN, Kind.TOKEN, Kind.NEW, Kind.MASK, Kind.ARRIVED]
    pairs = zip(LONG.frames, LONG.frames[1:], strict=False)
    all_there = (
        {*kinds} <= {span.kind for span in spans_of(frame, before, PIECES, MASK)}
        for before, frame in pairs
    )
    player.evaluate(f"player.show({1 + list(all_there).index(True)})")
    painted(player)
    look = """kind => {
      const style = getComputedStyle(document.querySelector(`.text .${kind}`));
      return [style.fontWeight, style.textDecorationLine, style.backgroundColor];
    }"""
    looks = [player.evaluate(look, kind.value) for kind in kinds]
    assert len({json.dumps(one) for one in looks}) == 5


def test_everything_can_be_heard(opened):
    """Each control has a name, masks have one, and what a step has done is said."""
    player = opened()
    names = player.locator("button, input, select").evaluate_all(
        "all => all.map((x) => x.getAttribute('aria-label') ?? x.textContent)"
    )
    assert len(names) == 12
    assert all(name.strip() for name in names)
    player.keyboard.press("ArrowLeft")
    painted(player)
    status = player.locator(".heard[role=status]")
    assert status.text_content().startswith(f"call {LONG.frames[-2].call}/")
    assert player.locator(".plot").get_attribute("aria-label").startswith("Length, up to ")
    player.evaluate("player.show(3)")
    masks = painted(player).locator(".text [role=img]")
    assert set(masks.evaluate_all("all => all.map((x) => x.getAttribute('aria-label'))")) <= {
        *("mask", "new mask", "masked again")
    }
    assert masks.count() == LONG.frames[3].tokens.count(MASK)


def test_a_click_tells_what_a_title_tells(opened):
    player = opened()
    token = player.locator(".text .token").first
    token.click()
    assert player.locator(".inspected").text_content() == token.get_attribute("title")
    assert "%" in token.get_attribute("title")


def test_frames_may_stream_in(opened):
    """As a server would send them: one by one, each with the pieces of tokens not seen before."""
    player = opened([], PIECES)
    assert text(player) == ""
    sample = player.evaluate("player.add({name: 'live', details: {seed: 1}, frames: []})")
    receive = """([sample, text]) => {
      const {frame, pieces} = JSON.parse(text);
      player.append(sample, frame, pieces);
    }"""
    before, known = None, set()
    for number, frame in enumerate(SHORT.frames):
        tokens = set(frame.tokens) - {MASK} - known
        known |= tokens
        changes, pieces = frame_to_json(frame, before, MASK), pieces_to_json(tokens, PIECES)
        before = frame
        player.evaluate(receive, [sample, json_text({"frame": changes, "pieces": pieces})])
        # Who looks at the last frame goes on with it, and who looks back is left there.
        assert state(player) == (0, number if number < 4 else 1, False)
        if number == 3:
            player.evaluate("player.show(1)")
    player.evaluate("player.describe(0, {calls: 7})")
    player.keyboard.press("End")
    assert text(player) == sample_text(SHORT)
    assert player.locator("dl").text_content() == "seed1calls7"


def test_the_player_works_on_pages_of_others(browser):
    """Two of them, in a page with fields of its own, from the package's two files alone."""
    files = importlib.resources.files("flexmdm_jax.generation.trace")
    style, script = (files.joinpath(f"player.{kind}").read_text("utf-8") for kind in ("css", "js"))
    with browsers.watched(browser) as watch:
        player = watch.page
        player.set_content(
            f"<!doctype html><style>{style}</style><textarea></textarea>"
            f"<div id=a></div><div id=b></div><script>{script}</script>"
        )
        data = {
            "mask": 0,
            "pieces": {"7": "Yes"},
            "traces": [
                {
                    "name": "a",
                    "frames": [
                        {"call": 0, "time": 0},
                        {"call": 1, "time": 0.1, "inserted": [[0, 0]]},
                        {"call": 2, "time": 1, "altered": [[0, 7, 0.9]]},
                    ],
                }
            ],
        }
        player.evaluate(
            "data => { window.players = [new FlexMDMPlayer(a, data, document),"
            " new FlexMDMPlayer(b, data)]; }",
            data,
        )
        painted(player)
        positions = "players.map((player) => player.position)"
        player.locator("textarea").focus()
        player.keyboard.press("ArrowLeft")
        assert player.evaluate(positions) == [2, 2]
        player.locator("#b .text").click()
        player.keyboard.press("ArrowLeft")
        assert player.evaluate(positions) == [2, 1]
        player.evaluate("document.activeElement.blur()")
        player.keyboard.press("Home")
        assert player.evaluate(positions) == [0, 1]
        painted(player)
        assert player.locator(".text").all_text_contents() == ["", "▒"]
        player.evaluate("players[1].destroy()")
        assert player.locator("#b").inner_html() == ""
        assert not watch.complaints
        assert not watch.requests


def test_without_a_browser_tests_fail_and_say_what_to_do(monkeypatch):
    monkeypatch.delenv("FLEXMDM_BROWSER", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytest.fail.Exception, match="make install-dev"), browsers.started():
        pass
