"""The flags of HumanEval infilling, and the benchmark that they name."""

import dataclasses
import os
import pathlib
from typing import Any

import jax
from absl import flags

from flexmdm_jax import hosts, options
from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.humaneval import Benchmark
from flexmdm_jax.evaluation.problems import read_problems
from flexmdm_jax.evaluation.sandbox import OPTIONAL, Limits, Sandbox
from flexmdm_jax.ranges import Few, FewOrZero, Seconds

# As in options.py.
flags.disclaim_key_flags()

# Flags that go with --humaneval alone.
_OF_CODE = ("candidates", "allow_code_execution", "allow_missing", "cpu_seconds", "workers")
# Those that go with --humaneval and --gold together.
_WITH_GOLD = ("humaneval", *_OF_CODE[1:], "num", "out", "overwrite")


@dataclasses.dataclass(frozen=True)
class CodeOptions:
    """What the command line says of programs to be run."""

    _holders: dict[str, flags.FlagHolder]

    def _value(self, name: str) -> Any:
        return self._holders[name].value

    @property
    def problems(self) -> str:
        """Returns the file of problems, or "" if none is named."""
        return self._value("humaneval")

    @property
    def gold(self) -> bool:
        """Returns whether known answers are to be judged, not a model's."""
        return self._value("gold")

    def check(self, data: str | None) -> None:
        """Raises UserError if programs would be run unasked, or flags do not fit together.

        Args:
          data: The dataset that the command line names, if any.
        """
        for name in () if self.problems else _OF_CODE:
            if flags.FLAGS[name].present:
                raise UserError(f"--{name} goes with --humaneval=FILE; give it or leave this out")
        if self.gold and not self.problems and not data:
            raise UserError(
                "--gold judges the answers of HumanEval or GSM8K; name them by --humaneval=FILE or "
                "--data=DIR"
            )
        if self.gold:
            options.refuse_besides("gold", *(_WITH_GOLD if self.problems else ("data",)))
        if self.problems and not self._value("allow_code_execution"):
            whose = "its own solutions" if self.gold else "what the model writes"
            raise UserError(
                f"--humaneval={self.problems} runs {whose} as Python programs on this machine, in "
                "a sandbox; if that is wanted, pass --allow_code_execution"
            )
        hosts.check_workers("--workers", self._value("workers"))

    def benchmark(self, num: int | None) -> tuple[Benchmark, dict[str, Any]]:
        """Returns the problems with what runs programs, and what names them among settings.

        Args:
          num: The first so many problems; all, if None.
        """
        problems, digest = read_problems(pathlib.Path(self.problems))
        seconds = self._value("cpu_seconds")
        limits = Limits(seconds, wall_seconds=5.0 * seconds)

        def opened() -> Sandbox | None:
            lacking = self._value("allow_missing")
            return Sandbox.open(limits, lacking) if jax.process_index() == 0 else None

        sandbox = hosts.first_process_first(opened)
        if sandbox is not None:
            print(f"sandbox: {', '.join(sandbox.protections)}", flush=True)
        workers = self._value("workers") or os.cpu_count() or 1
        benchmark = Benchmark(problems[:num], sandbox, self._value("candidates"), workers)
        return benchmark, {"humaneval_sha256": digest, "problems": len(benchmark.problems)}


def define_code_flags() -> CodeOptions:
    """Defines the flags; returns what reads them."""
    holders = [
        options.define_path(
            "humaneval", "", "Problems of HumanEval infilling instead: a .jsonl or .jsonl.gz."
        ),
        flags.DEFINE_bool(
            "gold",
            False,
            "Without a run: judge HumanEval's own solutions, or with --data GSM8K's true answers.",
        ),
        options.define_number(
            "candidates", 1, "With --humaneval: programs for each problem; 10 for pass@10.", Few
        ),
        flags.DEFINE_bool(
            "allow_code_execution", False, "With --humaneval: run programs, in a sandbox."
        ),
        flags.DEFINE_multi_enum(
            "allow_missing", [], list(OPTIONAL), "Protections that the sandbox may lack here."
        ),
        options.define_number(
            "cpu_seconds",
            Limits().cpu_seconds,
            "Of computing that a program may take.",
            Seconds,
        ),
        options.define_number(
            "workers", 0, "Programs that run at a time; 0: as many as there are CPUs.", FewOrZero
        ),
    ]
    return CodeOptions({holder.name: holder for holder in holders})
