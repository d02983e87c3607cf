"""The site, as people see it: a few pages of it, which show that the rest can be built.

`make docs` builds all, and takes every warning for an error.
"""

import subprocess
import sys

import browsers
import pytest
from page_files import ROOT

PAGES = ("README.md", "docs/README.md", "docs/concepts.md", "docs/config_reference.md")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    few = f"-Dinclude_patterns={','.join(PAGES)}"
    # Links to pages that are left out are missing, so nothing is said of them.
    command = [sys.executable, "-m", "sphinx", "-Q", "-c", "docs/site", "-d", str(out / "trees")]
    subprocess.run([*command, few, ".", str(out / "html")], cwd=ROOT, check=True)
    return out / "html"


def test_the_site_opens_at_its_folder_and_loads_nothing_from_elsewhere(site, browser):
    for page in ("index.html", "docs/concepts.html", "docs/config_reference.html"):
        with browsers.watched(browser) as watch:
            watch.page.goto(f"file://{site}/{page}")
            assert watch.page.locator("h1").first.inner_text()
            assert all(url.startswith(f"file://{site}/") for url in watch.requests)
            assert not watch.complaints
            pictures = watch.page.locator("article img").all()
            assert all(picture.evaluate("x => x.naturalWidth") for picture in pictures)


def test_pages_are_reached_from_the_side(site, browser):
    with browsers.watched(browser) as watch:
        watch.page.goto(f"file://{site}/index.html")
        watch.page.locator(".sidebar-tree").get_by_role("link", name="Concepts").click()
        assert watch.page.locator("h1").first.inner_text().startswith("Concepts")


def test_search_finds_a_field_without_a_server(site, browser):
    with browsers.watched(browser) as watch:
        watch.page.goto(f"file://{site}/search.html?q=clip_norm")
        found = watch.page.locator("ul.search li a").first
        found.wait_for()
        assert "config_reference" in found.get_attribute("href")
