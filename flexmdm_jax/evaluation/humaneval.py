"""HumanEval infilling: how often a program with a generated middle passes its test."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flexmdm_jax import hosts
from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.comparison import Examples, Run
from flexmdm_jax.evaluation.curves import Found, Panel, canvas_curves
from flexmdm_jax.evaluation.intervals import success_interval
from flexmdm_jax.evaluation.problems import Problem, pass_at_k
from flexmdm_jax.evaluation.request import NOT_ASKED, Report, Request, Table, Way, announced
from flexmdm_jax.evaluation.sandbox import Program, Sandbox, Verdict
from flexmdm_jax.generation import requests
from flexmdm_jax.generation.requests import Failure
from flexmdm_jax.generation.results import Result
from flexmdm_jax.generation.texts import encode_parts
from flexmdm_jax.model import Model
from flexmdm_jax.partial import Figures, PartialResults
from flexmdm_jax.progress import progress_bar
from flexmdm_jax.sampling import SamplerConfig

GOLD = "canonical solutions"
_KS = (1, 10, 100)
COLUMNS = {
    "problems": "problems",
    **{
        f"pass@{k}{end}": heading
        for k in _KS
        for end, heading in (("", f"pass@{k}"), ("_low", "95% low"), ("_high", "95% high"))
    },
    "failed": "failed",
    "timed out": "timed out",
    "crashed": "crashed",
    NOT_ASKED: NOT_ASKED,
    "empty": "empty",
    "truncated": "truncated",
    "calls": "calls",
}

Line = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The candidates of an evaluation, a JSON line each, in an order that does not change.

    Attributes:
      found: What an interrupted evaluation left.
      keep: Is told of each to come.
    """

    found: Sequence[Line] = ()
    keep: Callable[[Line], None] = lambda _: None

    @classmethod
    def of_results(cls, results: PartialResults | None) -> "Candidates":
        """Returns those of a file; of its process alone, others know how many there are of a run.

        Raises:
          UserError: If the file holds something else.
        """
        found = results.found if results else []
        if results and not all(isinstance(x, dict) and "run" in x for x in found):
            raise UserError(f"{results.path} holds no programs; move or delete it")
        known = hosts.of_first_process([{"run": line["run"]} for line in found])
        return cls(found, results.append) if results else cls(known)

    def of(self, run: str) -> list[Line]:
        """Returns those that were found of a run."""
        return [line for line in self.found if line["run"] == run]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What is asked of every model.

    Attributes:
      problems: All of them.
      sandbox: Runs the programs; None with the processes that only help to generate.
      candidates: For each problem.
      workers: Programs at a time.
    """

    problems: Sequence[Problem]
    sandbox: Sandbox | None
    candidates: int = 1
    workers: int = 1


@dataclasses.dataclass(frozen=True)
class Asker:
    """Makes a problem a request.

    FlexMDM is given both sides where they stand. MDM cannot know where the suffix will stand: it is
    given both before what it writes, between the marks that it was trained with.

    Attributes:
      model: Whom is asked.
      marks: Token ids before the prefix, between prefix and suffix, and behind, or None.
    """

    model: Model
    marks: Sequence[Sequence[int]] | None = None

    def __post_init__(self):
        if not self.model.setup.process.inserts and self.marks is None:
            raise UserError(
                "--humaneval: an MDM fills in code if it was trained on infilling, which this one "
                "was not; evaluate a run of configs/infilling_mdm.py, or a FlexMDM"
            )

    def request(
        self, problem: Problem, sampler: SamplerConfig, n: int, canvas: int = 0
    ) -> requests.Request:
        """Returns the request for a problem's middle, of MDM on a canvas."""
        others = {"id": problem.task_id, "n": n, "sampler": sampler}
        if self.model.setup.process.inserts:
            return requests.Request.infill(problem.prompt, problem.suffix, **others)
        opens, between, closes = self.marks
        sides = [problem.prompt, problem.suffix]
        prefix, suffix = encode_parts(self.model.tokenizer, sides, starts_with_gap=False)
        given = (*opens, *prefix, *between, *suffix, *closes)
        return requests.Request.prompt(given, canvas=canvas, **others)


def evaluate_humaneval(
    askers: Mapping[str, Asker],
    benchmark: Benchmark,
    request: Request,
    figures: Figures,
    candidates: Candidates,
) -> Report:
    """Returns pass@k and how candidates end, by model and way of sampling.

    Args:
      askers: By the label of their models.
      benchmark: What is asked.
      request: How to sample.
      figures: Those of finished runs.
      candidates: Those of unfinished ones.
    """
    rows, found, examples = {}, [], {}
    models = {label: asker.model for label, asker in askers.items()}
    for label, model in announced(models):
        for way in request.ways(model.setup.process, model.max_length):
            name = f"{label}, {way.name}"
            answers = _answers(askers[label], benchmark, way, request)
            judged = figures.of(name, _judge, name, benchmark, answers, candidates)
            rows[name] = judged["figures"]
            found.append(Found(label, way, rows[name]))
            passed = Examples.of_successes(np.array(judged["shares"]))
            examples[Run(label, way.name, way.pace)] = passed
    pictures = {}
    if request.canvas:
        pictures["canvas.png"] = canvas_curves(found, [Panel("pass@1", "pass@1 (%)")])
    return dataclasses.replace(_report(rows), pictures=pictures, examples=examples)


def evaluate_gold(benchmark: Benchmark, candidates: Candidates) -> tuple[Report, list[Line]]:
    """Returns (the report of the canonical solutions, the lines of those that do not pass)."""
    lines: list[Line] = []
    kept = dataclasses.replace(candidates, keep=lambda x: (lines.append(x), candidates.keep(x)))

    def answers(skip: int) -> Iterator[tuple[Line, str]]:
        for problem in benchmark.problems[skip:]:
            middle = problem.canonical_solution
            yield {"task_id": problem.task_id, "sample": 0, "middle": middle}, middle

    rows = {GOLD: _judge(GOLD, benchmark, answers, kept)["figures"]}
    lines = candidates.of(GOLD) + lines
    return _report(rows), [line for line in lines if line["outcome"] != "passed"]


# A candidate's line so far and its middle, or the line of a problem that was not asked.
Answers = Callable[[int], Iterator[tuple[Line, str | None]]]


def _answers(asker: Asker, benchmark: Benchmark, way: Way, request: Request) -> Answers:
    """Returns what yields a model's candidates, all but the first so many."""

    def answers(skip: int) -> Iterator[tuple[Line, str | None]]:
        writer = asker.model.writer(request.batch_size)
        asked = (
            asker.request(problem, way.sampler, benchmark.candidates, way.canvas)
            for problem in benchmark.problems
        )
        seeded = (each.seeded(request.seed) for each in asked)
        for answer in writer.answer(seeded, strict=False, skip=skip):
            yield _line(answer)

    return answers


def _line(answer: Result | Failure) -> tuple[Line, str | None]:
    if isinstance(answer, Failure):
        return {"task_id": answer.id, "outcome": NOT_ASKED, "reason": answer.error}, None
    middle = "".join(answer.generated)
    kept = ("sample", "seed", "calls", "truncated", "cut_short")
    told = {name: getattr(answer, name) for name in kept}
    return {"task_id": answer.id, "middle": middle} | told, middle


def _judge(
    name: str, benchmark: Benchmark, answers: Answers, candidates: Candidates
) -> dict[str, Any]:
    """Returns a run's figures, and the share of candidates that pass by problem.

    What candidates are not yet found are run first.
    """
    lines = candidates.of(name)
    total = len(benchmark.problems) * benchmark.candidates
    quiet = None if benchmark.sandbox else True
    bar = progress_bar(total=total, initial=len(lines), desc=name, unit="program", disable=quiet)
    for line, verdict in _verdicts(answers(len(lines)), benchmark):
        ended = dataclasses.asdict(verdict) if verdict else {}
        lines.append({"run": name} | line | ended)
        candidates.keep(lines[-1])
        bar.update()
    bar.close()
    if benchmark.sandbox is None:
        return {"figures": {}, "shares": []}
    return {"figures": figures_of(lines, benchmark), "shares": _shares(lines, benchmark, 1)}


def _shares(lines: Sequence[Line], benchmark: Benchmark, k: int) -> list[float]:
    """Returns pass@k of each problem."""
    passed = collections.Counter(x["task_id"] for x in lines if x["outcome"] == "passed")
    return [pass_at_k(benchmark.candidates, passed[x.task_id], k) for x in benchmark.problems]


def _verdicts(
    answers: Iterable[tuple[Line, str | None]], benchmark: Benchmark
) -> Iterator[tuple[Line, Verdict | None]]:
    problems = {problem.task_id: problem for problem in benchmark.problems}

    def jobs() -> Iterator[tuple[Line, Program | None]]:
        for line, middle in answers:
            yield line, None if middle is None else problems[line["task_id"]].program(middle)

    if benchmark.sandbox is None:
        # Other processes generate together with this one.
        return ((line, None) for line, _ in answers)
    return benchmark.sandbox.run_all(jobs(), benchmark.workers)


def figures_of(lines: Sequence[Line], benchmark: Benchmark) -> dict[str, float]:
    """Returns pass@k over problems with 95% intervals, and shares of candidates.

    A problem that could not be asked counts as one whose candidates have all failed. Intervals are
    those of Wilson for as many yes-or-no answers as there are problems: a little wide for k or n
    above 1, where a problem's share of successes varies less.

    Args:
      lines: Of candidates, and of problems that could not be asked.
      benchmark: Whose they are.
    """
    n = benchmark.candidates
    figures: dict[str, float] = {"problems": float(len(benchmark.problems))}
    for k in _KS:
        if k <= n:
            figures |= success_interval(_shares(lines, benchmark, k), f"pass@{k}")
    run = [line for line in lines if line["outcome"] != NOT_ASKED]
    outcomes = collections.Counter(line["outcome"] for line in run)
    total = n * len(benchmark.problems)
    figures |= {name: outcomes[name] / total for name in ("failed", "timed out", "crashed")}
    figures[NOT_ASKED] = (len(lines) - len(run)) / len(benchmark.problems)
    if run:
        figures["empty"] = float(np.mean([not line["middle"] for line in run]))
        figures["seconds"] = float(np.mean([line["seconds"] for line in run]))
    if run and "calls" in run[0]:
        figures["truncated"] = float(np.mean([line["truncated"] for line in run]))
        figures["calls"] = float(np.mean([line["calls"] for line in run]))
    return figures


def _report(rows: Mapping[str, Mapping[str, float]]) -> Report:
    there = {key for figures in rows.values() for key in figures}
    columns = {key: text for key, text in COLUMNS.items() if key in there}
    return Report(rows, [Table("", columns)])
