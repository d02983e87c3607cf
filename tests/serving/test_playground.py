"""The page of a server in a browser: type, write, watch, rewrite, and nothing else happens."""

import contextlib
import itertools
import re

import browsers
import pytest
import served

from flexmdm_jax.generation.requests import Request


@pytest.fixture(scope="module")
def server():
    with served.serving() as running:
        yield running


@pytest.fixture
def opened(browser, server):
    """Opens the page; it may neither complain nor ask anybody but its server."""
    watches = []

    def open_page(address=server.address, **settings):
        watch = stack.enter_context(browsers.watched(browser, **settings))
        watches.append((watch, address))
        watch.page.set_default_timeout(300_000)
        watch.page.goto(address)
        return watch.page

    with contextlib.ExitStack() as stack:
        yield open_page
        for watch, address in watches:
            assert [x for x in watch.complaints if "401" not in x and "400" not in x] == []
            assert all(request.startswith(address) for request in watch.requests)


def drawn(request):
    [result] = served.writer().answer([request])
    return result


def write(page, text, seed=5):
    """Has a text written, and waits for it."""
    page.get_by_label("seed").fill(str(seed))
    page.get_by_label("text", exact=True).fill(text)
    page.get_by_role("button", name="write", exact=True).click()
    page.get_by_text(re.compile("^written: ")).wait_for()


def shown(page):
    """Returns the text that the player shows."""
    return page.locator("#player .text").text_content()


def test_a_text_is_continued_and_then_rewritten_in_place(opened):
    page = opened()
    text = page.get_by_label("text", exact=True)
    rewrite = page.get_by_role("button", name="rewrite selection")
    write(page, "Once ")
    expected = drawn(Request.prompt("Once ", seed=5)).text
    assert text.input_value() == expected
    assert shown(page) == expected
    text.evaluate("(element) => element.setSelectionRange(0, 0)")
    rewrite.and_(page.locator("[aria-disabled=true]")).wait_for()
    text.evaluate("(element) => { element.focus(); element.setSelectionRange(2, 4); }")
    rewrite.and_(page.locator("[aria-disabled=false]")).click()
    page.locator("#player option", has_text="On… ").wait_for(state="attached")
    page.get_by_text(re.compile("^written: ")).wait_for()
    rewritten = drawn(Request.infill(expected[:2], expected[4:], seed=5))
    assert text.input_value() == rewritten.text
    selection = "(element) => [element.selectionStart, element.selectionEnd]"
    assert text.evaluate(selection) == [2, 2 + len(rewritten.generated[0])]
    page.get_by_role("button", name="undo").click()
    assert text.input_value() == expected


def test_gaps_are_filled_and_every_call_can_be_looked_at(opened):
    page = opened()
    page.get_by_label("sampler").select_option("exact")
    assert page.get_by_label("events per step").is_hidden()
    assert page.get_by_label("steps", exact=True).is_hidden()
    page.get_by_label("samples").fill("2")
    write(page, "<gap>, and <gap>!")
    calls = int(re.search(r"call (\d+)/", page.locator(".figures").text_content())[1])
    assert calls > 4
    assert page.locator("#player select").first.locator("option").count() == 2
    final = shown(page)
    # Keys are the player's where nobody types.
    page.locator("#player .text").click()
    page.keyboard.press("Home")
    page.locator(".figures", has_text="call 0/").wait_for()
    assert shown(page) == ", and !"
    page.keyboard.press("End")
    page.locator(".figures", has_text=f"call {calls}/").wait_for()
    assert shown(page) == final == page.get_by_label("text", exact=True).input_value()
    page.keyboard.press("ArrowDown")
    page.locator("#player dd", has_text=re.compile("^(stop|length)$")).wait_for()
    details = page.locator("#player dl").text_content()
    assert "seed 5" in re.sub(r"([a-z])(\d)", r"\1 \2", details)


TAKEN = """(key) => !document.body.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }))"""


def test_keys_scroll_the_page_until_there_is_something_to_play(opened):
    page = opened()
    keys = [" ", "Home", "End", "ArrowDown"]
    assert [page.evaluate(TAKEN, key) for key in keys] == [False] * 4
    write(page, "a")
    assert [page.evaluate(TAKEN, key) for key in keys] == [True] * 4


def test_what_is_wrong_is_said_and_can_be_mended(opened):
    page = opened()
    page.get_by_label("text", exact=True).fill("a <gap><gap>")
    page.keyboard.press("Control+Enter")
    page.get_by_role("alert").filter(has_text="two <gap> side by side").wait_for()
    write(page, "a")
    # Without a text it is not shown, and has no role.
    assert page.locator("#problem").text_content() == ""


def test_what_is_written_can_be_stopped(opened, server):
    page = opened()
    page.get_by_label("sampler").select_option("exact")
    page.get_by_label("samples").fill("64")
    page.get_by_label("text", exact=True).fill("b")
    page.keyboard.press("Control+Enter")
    page.get_by_text(re.compile("^writing, call ")).wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("status").filter(has_text="stopped").wait_for()
    assert page.get_by_label("text", exact=True).input_value() == "b"
    write(page, "c", seed=6)


def test_a_key_is_asked_for_where_there_is_one(browser, opened):
    with served.serving(key="secret") as server:
        page = opened(server.address)
        page.get_by_label("text", exact=True).fill("a")
        page.keyboard.press("Control+Enter")
        page.get_by_role("alert").filter(has_text="the key is missing or wrong").wait_for()
        page.get_by_label("key").fill("secret")
        write(page, "a")


@pytest.mark.parametrize("width", [360, 1100])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_used_without_a_pointer(opened, width, scheme):
    page = opened(viewport={"width": width, "height": 740}, color_scheme=scheme)
    write(page, "Once upon a ")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    unnamed = page.locator("input, select, textarea, button").evaluate_all(
        "(all) => all.filter((x) => !(x.labels?.length || x.ariaLabel || x.textContent.trim()))"
        ".map((x) => x.outerHTML)"
    )
    assert unnamed == []
    small = page.locator("button:visible, input:visible, select:visible").evaluate_all(
        "(all) => all.filter((x) => x.type !== 'range' && x.getBoundingClientRect().height < 24)"
        ".map((x) => x.outerHTML)"
    )
    assert small == []


# Of the element that has the focus: what it is called, and where it lies.
FOCUSED = """() => {
  const element = document.activeElement;
  if (element === document.body) return null;
  const words = element.ariaLabel || element.labels?.[0]?.firstChild.textContent;
  const name = (words || element.textContent).trim().toLowerCase();
  const { left, right, top, bottom } = element.getBoundingClientRect();
  return { name, left, right, top: top + scrollY, bottom: bottom + scrollY };
}"""


@pytest.mark.parametrize("width", [360, 1100])
def test_the_tab_key_goes_through_the_page_as_it_is_read(opened, width):
    page = opened(viewport={"width": width, "height": 740})
    write(page, "Once ")
    page.evaluate("document.activeElement.blur(); getSelection().removeAllRanges()")
    page.locator("#theme").focus()
    visited = [page.evaluate(FOCUSED)]
    page.keyboard.press("Tab")
    while (here := page.evaluate(FOCUSED)) and here not in visited:
        visited.append(here)
        page.keyboard.press("Tab")
    names = [place["name"] for place in visited]
    for place, following in itertools.pairwise(visited):
        below = following["top"] >= place["bottom"] - 1
        beside = following["left"] >= place["right"] - 1 and following["bottom"] > place["top"]
        assert below or beside, (place, following)
    expected = ["text", "write", "sampler", "temperature", "seed", "more", "frame", "play"]
    assert [name for name in names if name in expected] == expected


def test_the_page_loads_nothing_but_itself(server):
    with server.client() as client:
        answer = client.get("/")
    assert answer.headers["Content-Security-Policy"] == "default-src 'self' 'unsafe-inline'"
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", answer.text)
    assert "{{" not in answer.text
