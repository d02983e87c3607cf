"""A section of the check of a GPU: what it is given, and the rows that it yields."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks.gpu_sections.sizes import Sizes

Figures = Mapping[str, float | str]


@dataclasses.dataclass(frozen=True)
class Row:
    """One thing that was measured or checked.

    Attributes:
      name: What it is.
      figures: Name with unit -> number, or text.
      passed: Whether it is as it has to be; None if there is nothing to judge.
      note: What a reader should know, or what went wrong.
    """

    name: str
    figures: Figures = dataclasses.field(default_factory=dict)
    passed: bool | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Context:
    """What a section is given.

    Attributes:
      sizes: Of all that is measured.
      found: Rows of the sections before it, by their names.
    """

    sizes: Sizes
    found: Mapping[str, list[Row]] = dataclasses.field(default_factory=dict)

    def figure(self, section: str, row: str, name: str) -> float | None:
        """Returns a number that an earlier section found; None if it did not."""
        rows = (x for x in self.found.get(section, []) if x.name == row)
        return next((x.figures.get(name) for x in rows), None)


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the check.

    Attributes:
      name: On the command line.
      seconds: What it is expected to take on an H100, programs compiled included.
      run: Yields rows as they are found; raises what cannot be measured.
      on_host: Whether JAX is to leave the GPU alone, for it is PyTorch's.
    """

    name: str
    seconds: float
    run: Callable[[Context], Iterator[Row]]
    on_host: bool = False


def first_sentence(section: Section) -> str:
    """Returns what a section is about, from its docstring."""
    documented: Any = getattr(section.run, "func", section.run)
    return documented.__doc__.splitlines()[0].removeprefix("Yields ").rstrip(".")
