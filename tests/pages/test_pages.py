"""What users read: every page can be found, every link leads somewhere."""

import pathlib
import re

import pytest
from page_files import FILES, ROOT, anchors, links

from docs.site import navigation

IDS = [str(path.relative_to(ROOT)) for path in FILES]


def test_every_page_is_in_the_navigation_once():
    pages = [f"{page}.md" for page in navigation.pages()]
    assert sorted(pages) == sorted(IDS), "docs/README.md lists all pages"
    assert all(len(below) for below in navigation.sections().values())


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_links_lead_somewhere(path):
    for link in links(path):
        if re.match(r"https?:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{path}: {link}"
        assert target.is_relative_to(ROOT), f"{path}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{path}: {link}; there are {anchors(target)}"


def test_every_picture_is_shown():
    shown = {(path.parent / link).resolve() for path in FILES for link in links(path)}
    assert set((ROOT / "docs").glob("*.png")) <= shown


def test_every_benchmark_is_in_the_table():
    files = (ROOT / "benchmarks").glob("*.py")
    run = {path.stem for path in files if '__name__ == "__main__"' in path.read_text()}
    named = re.findall(r"python -m benchmarks\.(\w+)", (ROOT / "benchmarks/README.md").read_text())
    assert sorted(named) == sorted(run)


def test_links_and_anchors_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# On `x_t`, and (more)\n\n[a](b.md#c) and `[no](link)`\n"
        "```sh\n# no heading\n[no](code)\n```\n## Twice\n## Twice\n![p](q.png)\n"
    )
    assert links(page) == ["b.md#c", "q.png"]
    assert anchors(page) == {"on-x_t-and-more", "twice", "twice-1"}


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_pages_speak_of_the_project_alone(path):
    text = path.read_text()
    assert not re.search(r"(?<![\w.])/(?:work|tmp|root|home)/", text)
    assert not re.search(r"\b(?:issue|PR|pull request) ?#?\d", text, re.IGNORECASE)


def test_a_new_page_takes_one_line(tmp_path, monkeypatch):
    """The contents are the navigation: no other file lists pages."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "README.md").write_text(
        "## A\n\n* [B](b.md): b.\n\n## C\n* [D](../d.md)\n"
    )
    monkeypatch.setattr(navigation, "ROOT", pathlib.Path(tmp_path))
    assert navigation.sections() == {"A": ["docs/b"], "C": ["d"]}
    assert ":caption: A\n\n/docs/b\n" in navigation.side()
