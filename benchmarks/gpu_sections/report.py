"""What the check found: as lines while it runs, as a table at its end, as JSON after each row."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from benchmarks.gpu_sections.running import Outcome
from benchmarks.gpu_sections.section import Row
from flexmdm_jax.files import json_text, write_atomically

_MARKS = {True: "ok", False: "WRONG", None: ""}
WAITING = Outcome("waiting")


@dataclasses.dataclass
class Report:
    """All sections with what is known of them so far.

    Attributes:
      path: Of the JSON.
      asked: What the command line said.
      outcomes: Of each section, by its name.
      rows: The same.
    """

    path: pathlib.Path
    asked: Mapping[str, Any]
    outcomes: dict[str, Outcome]
    rows: dict[str, list[Row]]

    @classmethod
    def of(cls, path: pathlib.Path, asked: Mapping[str, Any], names: tuple[str, ...]) -> "Report":
        """Returns a report on sections that wait."""
        return cls(path, asked, dict.fromkeys(names, WAITING), {name: [] for name in names})

    def add(self, name: str, row: Row) -> None:
        """Takes in a row of a section, prints and saves it."""
        self.rows[name].append(row)
        print(f"  {line(row)}", flush=True)
        self.save()

    def end(self, name: str, outcome: Outcome) -> None:
        """Takes in how a section ended, prints and saves it."""
        self.outcomes[name] = outcome
        print(f"  {ending(outcome)}\n", flush=True)
        self.save()

    @property
    def failed(self) -> bool:
        """Returns whether a section failed or was stopped."""
        return any(x.status in ("failed", "stopped") for x in self.outcomes.values())

    def save(self) -> None:
        """Writes the JSON."""
        sections = {
            name: dataclasses.asdict(outcome)
            | {"rows": [dataclasses.asdict(row) for row in self.rows[name]]}
            for name, outcome in self.outcomes.items()
        }
        values = {"asked": dict(self.asked), "sections": sections}
        write_atomically(self.path, (json_text(values, indent=2) + "\n").encode())

    def table(self) -> str:
        """Returns everything as a table in Markdown, and the sections' ends below it."""
        lines = ["| section | what | result | |", "| --- | --- | --- | --- |"]
        for name, rows in self.rows.items():
            for row in rows:
                mark = "; ".join(filter(None, (_MARKS[row.passed], row.note)))
                lines.append(f"| {name} | {row.name} | {figures(row)} | {mark} |")
        width = max(map(len, self.outcomes))
        ends = (f"{name:<{width}}  {ending(x)}" for name, x in self.outcomes.items())
        return "\n".join((*lines, "", *ends))


def line(row: Row) -> str:
    """Returns a row as a line."""
    mark = f"[{_MARKS[row.passed]}] " if _MARKS[row.passed] else ""
    note = f" ({row.note})" if row.note and row.figures else row.note
    return f"{mark}{row.name}: {figures(row)}{note}"


def figures(row: Row) -> str:
    """Returns the figures of a row, comma by comma."""
    return ", ".join(f"{name} = {_number(value)}" for name, value in row.figures.items())


def _number(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def ending(outcome: Outcome) -> str:
    """Returns how a section ended."""
    error = f": {outcome.error}" if outcome.error else ""
    took = f" in {outcome.seconds:.0f} s" if outcome.seconds else ""
    return f"{outcome.status}{took}{error}"
