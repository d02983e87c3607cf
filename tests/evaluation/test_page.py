"""The page of a report in a browser: it asks for nothing, and shows texts as they are."""

import browsers
import matplotlib.figure
import pytest

from flexmdm_jax.evaluation.page import report_page
from flexmdm_jax.evaluation.report import TABLES
from flexmdm_jax.evaluation.request import Report, Sample
from flexmdm_jax.files import png_of

HOSTILE = "</pre><script>document.title = 'gone'</script><img src=http://x.test/y> & {{body}}"


def picture() -> bytes:
    figure = matplotlib.figure.Figure(figsize=(1, 1))
    figure.subplots().plot([1, 2])
    return png_of(figure)


@pytest.fixture
def page(browser, tmp_path):
    rows = {
        "data": {"length_mean": 3.0, "ngram_js_2": 0.1, "ngram_js_2_error": 0.01},
        HOSTILE: {"nats_per_token": 2.5, "nats_per_token_error": 0.125, "perplexity": None},
    }
    compared = {"A - B: success": {"figure": 0.5, "baseline": 0.25, "p": 0.03}}
    samples = [Sample("A", HOSTILE, {}), Sample("A", "two\nlines", {})]
    report = Report(rows, TABLES[:2], {"lengths.png": picture()}, ["A note."], samples)
    path = tmp_path / "report.html"
    path.write_text(report_page("A <title>", report, compared, {"seed": 0, "text": HOSTILE}))
    with browsers.watched(browser) as watch:
        watch.page.goto(f"file://{path}")
        yield watch
        assert not watch.complaints
        assert [x for x in watch.requests if not x.startswith(("file:", "data:"))] == []


def test_a_report_is_read_in_a_browser(page):
    page = page.page
    assert page.title() == "A <title>"
    page.evaluate("document.querySelectorAll('details').forEach(x => x.open = true)")
    cells = page.locator("tbody tr", has=page.locator(f"th:text-is({HOSTILE!r})"))
    assert cells.first.locator("td").all_inner_texts()[:4] == ["-", "2.500 ± 0.125", "-", "-"]
    assert page.locator("li pre").all_inner_texts() == [HOSTILE, "two\nlines"]
    assert page.get_by_text("A note.").is_visible()
    assert "0.250" in page.locator("tr", has_text="A - B: success").inner_text()
    image = page.locator("figure img")
    assert image.evaluate("x => x.complete && x.naturalWidth") == 150
    headings = page.locator("h2").all_inner_texts()
    assert headings == [TABLES[0].title, TABLES[1].title, "Compared on the same examples"]
    # What figures are is said for those that are shown.
    assert page.locator("dt").all_inner_texts()[:2] == ["nats per sequence", "nats per token"]
    assert HOSTILE[:20] in page.locator("details pre").last.inner_text()
