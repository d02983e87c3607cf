"""Where an evaluation's results go: as they are found, then for people and for programs."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from flexmdm_jax import hosts
from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.comparison import COLUMNS as DIFFERENCES
from flexmdm_jax.evaluation.comparison import differences
from flexmdm_jax.evaluation.page import report_page
from flexmdm_jax.evaluation.report import format_table, format_tables
from flexmdm_jax.evaluation.request import Report, Sample
from flexmdm_jax.files import check_writable, json_text, write_atomically
from flexmdm_jax.partial import Figures, PartialResults

FIGURES, PAGE, SAMPLES, COMPARISON = (
    "evaluation.json",
    "report.html",
    "samples.jsonl",
    "comparison.json",
)
# All that evaluations may draw.
PICTURES = ("lengths.png", "calls.png", "success.png", "canvas.png", "path.png", "states.png")


@dataclasses.dataclass(frozen=True)
class Results:
    """A folder of results.

    Attributes:
      folder: It; it may be new.
      overwrite: Whether results that are there may be replaced.
      settings: Of the command line, all that decides what is found.
      baseline: The model that others are compared with, or "".
      seed: Decides the draws of the comparison.
    """

    folder: pathlib.Path
    overwrite: bool
    settings: Mapping[str, Any]
    baseline: str = ""
    seed: int = 0

    def check(self, *others: str) -> None:
        """Raises UserError if nothing can be written, or results are there and have to stay.

        Args:
          *others: Names of files besides those of every evaluation.
        """
        names = (FIGURES, PAGE, SAMPLES, COMPARISON, *PICTURES, *others)
        there = [name for name in names if (self.folder / name).exists()]
        if there and not self.overwrite:
            raise UserError(
                f"{self.folder / there[0]} exists already; name another folder with --out or pass "
                "--overwrite"
            )
        check_writable(self.folder / FIGURES)

    def open(self, name: str, made_with: Mapping[str, Any]) -> PartialResults | None:
        """Returns where lines go as they are found: with process 0.

        Args:
          name: Of the file.
          made_with: What they depend on besides the settings.
        """

        def opened() -> PartialResults | None:
            if jax.process_index() > 0:
                return None
            settings = {**self.settings, **made_with}
            return PartialResults(self.folder / name, settings, overwrite=self.overwrite)

        return hosts.first_process_first(opened)

    def write(
        self,
        title: str,
        made_with: Mapping[str, Any],
        evaluate: Callable[[Figures], Report],
        *others: str,
    ) -> None:
        """Writes what an evaluation answers, and says it.

        Args:
          title: Of the page.
          made_with: What it depends on besides the settings.
          evaluate: The evaluation.
          *others: Names of files that it has written itself.
        """
        lines = self.open(FIGURES, made_with)
        with lines or contextlib.nullcontext():
            found = hosts.of_first_process(lines.found if lines else [])
            keep = lines.append if lines else lambda _: None
            known = {label: x for line in found for label, x in line.items()}
            report = evaluate(Figures(known, keep, quiet=lines is None))
            if lines is None:
                return
            # As JSON has them: what is not finite is a dash wherever it is shown.
            report = dataclasses.replace(report, rows=_as_json(report.rows))
            compared = _as_json(differences(report.examples, self.baseline, self.seed))
            files = self._files(title, report, compared, {**self.settings, **made_with})
            for name, data in files.items():
                write_atomically(self.folder / name, data)
            lines.finish(_json(report.rows))
        print(format_tables(report.rows, report.tables))
        for note in report.notes:
            print(note)
        if compared:
            print(f"\n{format_table(compared, DIFFERENCES)}")
        names = (FIGURES, *others, *files)
        print(f"results: {', '.join(str(self.folder / name) for name in names)}")

    def _files(
        self,
        title: str,
        report: Report,
        compared: Mapping[str, Mapping[str, float | None]],
        settings: Mapping[str, Any],
    ) -> dict[str, bytes]:
        files = {PAGE: report_page(title, report, compared, settings).encode(), **report.pictures}
        if report.samples:
            files[SAMPLES] = b"".join(map(_sample_line, report.samples))
        if compared:
            files[COMPARISON] = _json(compared)
        return files


def _as_json(values: Any) -> Any:
    return json.loads(json_text(values))


def _json(values: Any) -> bytes:
    return (json_text(values, indent=2) + "\n").encode()


def _sample_line(sample: Sample) -> bytes:
    line = {"run": sample.run, "text": sample.text, **sample.told}
    return f"{json_text(line)}\n".encode()
