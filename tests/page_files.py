"""Markdown files as tests see them: code, links, and the anchors that these may name."""

import dataclasses
import os
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
# Everything that is written for users.
FILES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "launch" / "README.md",
        ROOT / "benchmarks" / "README.md",
    ],
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
      file: Where it stands, from the repository's root.
      line: Of its first line of code.
      language: As its fence names it; empty if it does not.
      code: Without the indentation of a list that it stands in.
    """

    file: str
    line: int
    language: str
    code: str

    def __str__(self):
        return f"{self.file}:{self.line}"


def _parts(path: pathlib.Path) -> tuple[list[str], list[Block]]:
    """Returns the lines that are no code, and the blocks of code."""
    prose, blocks = [], []
    fence = None
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        mark = re.match(r"( *)(```+)(\w*)", line)
        if fence is None and mark:
            fence, code, first = mark, [], number + 1
        elif fence and mark and mark[2] == fence[2] and not mark[3]:
            text = "".join(f"{x.removeprefix(fence[1])}\n" for x in code)
            blocks.append(Block(os.path.relpath(path, ROOT), first, fence[3], text))
            fence = None
        elif fence:
            code.append(line)
        else:
            prose.append(line)
    assert fence is None, f"{path}: a block of code has no end"
    return prose, blocks


def blocks(language: str, files=FILES) -> list[Block]:
    """Returns the blocks of a language."""
    return [x for path in files for x in _parts(path)[1] if x.language == language]


def anchors(path: pathlib.Path) -> set[str]:
    """Returns the anchors of a file's headings, as GitHub makes them."""
    found: set[str] = set()
    for line in _parts(path)[0]:
        if match := re.match(r"#+ (.*)", line):
            shown = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", match[1]).strip().lower()
            anchor = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
            number = 0
            while (name := f"{anchor}-{number}" if number else anchor) in found:
                number += 1
            found.add(name)
    return found


def links(path: pathlib.Path) -> list[str]:
    """Returns what a file links to, pictures included."""
    prose = "\n".join(re.sub(r"`[^`]*`", "", line) for line in _parts(path)[0])
    return re.findall(r"\]\(([^)\s]+)\)", prose)
