"""The pages of the site and their order, as docs/README.md lists them."""

import pathlib
import posixpath
import re

ROOT = pathlib.Path(__file__).parents[2]
HOME, CONTENTS = "README", "docs/README"


def sections() -> dict[str, list[str]]:
    """Returns the pages under each heading of docs/README.md, as paths without `.md`."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / f"{CONTENTS}.md").read_text().splitlines():
        if line.startswith("## "):
            found[line[3:]] = pages_below = []
        elif match := re.match(r"\* \[.+?\]\((\S+)\.md\)", line):
            pages_below.append(posixpath.normpath(f"docs/{match[1]}"))
    return found


def pages() -> list[str]:
    """Returns all pages of the site, as paths without `.md`."""
    return [HOME, CONTENTS, *(page for pages in sections().values() for page in pages)]


def side() -> str:
    """Returns MyST for what the first page ends in: the contents, shown at the side."""
    trees = {"": [f"Contents </{CONTENTS}>"], **sections()}
    return "".join(
        "\n\n```{toctree}\n:hidden:\n"
        + (f":caption: {caption}\n" if caption else "")
        + "\n"
        + "\n".join(page if page.startswith("Contents") else f"/{page}" for page in below)
        + "\n```\n"
        for caption, below in trees.items()
    )
