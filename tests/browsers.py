"""A headless Chromium, for tests of what people see in theirs."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator

import pytest

ADVICE = "no Chromium to test pages in: run `make install-dev`, or name one in FLEXMDM_BROWSER"
NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")


@contextlib.contextmanager
def started():
    """Gives a browser of Playwright's; a test that needs one fails where there is none."""
    path = os.environ.get("FLEXMDM_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if not path:
        pytest.fail(ADVICE, pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        yield browser
        browser.close()


@dataclasses.dataclass
class Watched:
    """A page, and what it has said and asked for since it was opened."""

    page: object
    complaints: list[str] = dataclasses.field(default_factory=list)
    requests: list[str] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def watched(browser, **settings) -> Iterator[Watched]:
    """Gives an empty page of its own and watches it.

    Args:
      browser: Of started().
      **settings: Of the page's context: viewport, color_scheme, reduced_motion and so on.
    """
    context = browser.new_context(**settings)
    watch = Watched(context.new_page())
    watch.page.on("console", lambda message: watch.complaints.append(message.text))
    watch.page.on("pageerror", lambda error: watch.complaints.append(str(error)))
    watch.page.on("request", lambda request: watch.requests.append(request.url))
    yield watch
    context.close()
