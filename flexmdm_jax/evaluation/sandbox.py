"""Runs programs that nobody has read, such as a model's, each shut in on its own.

    >>> sandbox = Sandbox.open()
    >>> sandbox.run(Program("def f(x): return x + 1", "def check(f): assert f(1) == 2", "f"))
    Verdict(outcome='passed', reason='', seconds=0.04)

Every program gets processes of its own, started for it and gone before its verdict is said
(`confinement/`):

* **Namespaces**: it sees no process but its own two, no network and no files but Python's, read
  only; an empty folder of limited size in memory is its working directory and all it can write.
* **seccomp**: it can start neither processes nor threads nor other programs, open no socket, trace
  nothing and mount nothing.
* **Limits** of computing time, wall time, memory, sizes of files and open files. What it prints
  goes nowhere.
* It is an unprivileged user without capabilities, and can never become another; who starts the
  sandbox as root does not share that user's id.
* Its environment is empty, and it inherits no file but two pipes.

**A verdict cannot be forged from inside.** The test runs in a process of its own, which calls the
program's functions through the pipes and gets plain values back. The program's process holds
neither the test, nor what is compared, nor the pipe that the verdict is written to; it began before
the test was read. To pass, it has to return what the test wants.

What is not guarded: a program may know the answers by heart; where a test calls other functions of
the program (four of HumanEval's problems do, `encode_cyclic` for example), it can make those agree
with each other. The kernel is shared with everybody: a program that breaks Linux breaks out. The
test is trusted as far as its verdict goes, though it runs as shut in as the program.

What a test can see is values, not objects: arguments are copies, iterators and other iterables
arrive as iterators, and functions, classes and modules cannot be returned.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeVar

from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.confinement.system import NOBODY
from flexmdm_jax.evaluation.confinement.warden import NAMESPACES, SECCOMP

T = TypeVar("T")

# What a system may lack, and what is lacking then.
OPTIONAL = {
    NAMESPACES: "programs would see your files, your processes and the network",
    SECCOMP: "programs could reach more of the kernel, and start processes",
}
ALWAYS = ("no new privileges", "resource limits", "an empty environment", "a separate test")
_START = (
    "import sys; sys.path.insert(0, {package!r}); "
    "from flexmdm_jax.evaluation.confinement import warden; del sys.path[0]; warden.main()"
)
_PACKAGE = str(pathlib.Path(__file__).resolve().parents[2])
# Seconds after the wall limit at which the warden itself is given up.
_GRACE = 120.0


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a program may take.

    Attributes:
      cpu_seconds: Of computing, for the program and for the test.
      wall_seconds: From start to verdict; several times the others, so that a busy machine does
        not decide what passes.
      memory_bytes: Of addresses, for the program and for the test.
      folder_bytes: In its folder, and in a file.
    """

    cpu_seconds: int = 3
    wall_seconds: float = 15.0
    memory_bytes: int = 1 << 30
    folder_bytes: int = 16 << 20


@dataclasses.dataclass(frozen=True)
class Program:
    """A program with its test.

    Attributes:
      source: Python.
      test: Python that defines check(function).
      entry_point: The function of the program that is checked.
    """

    source: str
    test: str
    entry_point: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a program.

    Attributes:
      outcome: `passed`, `failed` (the test or the program raised), `timed out` or `crashed` (its
        process ended).
      reason: The first line of why, if it has not passed.
      seconds: From its start to the verdict.
    """

    outcome: str
    reason: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Returns whether it does what the test wants."""
        return self.outcome == "passed"


_TRIAL = Program("import math\ndef f(): return 1", "def check(f): assert f() == 1", "f")


@dataclasses.dataclass(frozen=True)
class Sandbox:
    """A way to run programs that has been tried on this machine; see open().

    Attributes:
      limits: For each program.
      without: Protections that it does without.
    """

    limits: Limits = Limits()
    without: tuple[str, ...] = ()

    @classmethod
    def open(cls, limits: Limits = Limits(), allow_missing: Collection[str] = ()) -> "Sandbox":
        """Returns a sandbox with all protections that this machine has, after trying them.

        Args:
          limits: For each program.
          allow_missing: Names of OPTIONAL that may be missing.

        Raises:
          UserError: If one is missing that may not, or programs cannot be run.
        """
        if unknown := [name for name in allow_missing if name not in OPTIONAL]:
            raise UserError(f"no protection is called {unknown[0]!r}: {', '.join(OPTIONAL)}")
        sandbox, missing = _tried(limits)
        for name, why in missing.items():
            if name not in allow_missing:
                raise UserError(
                    f"the sandbox lacks {name} here ({why}): {OPTIONAL[name]}; use a system that "
                    f"allows them, or accept that with --allow_missing={name}"
                )
        return sandbox

    @property
    def protections(self) -> tuple[str, ...]:
        """Returns the names of those that are on."""
        return (*(name for name in OPTIONAL if name not in self.without), *ALWAYS)

    def run(self, program: Program) -> Verdict:
        """Returns what becomes of a program; nothing of it is left behind.

        Raises:
          RuntimeError: If it could not be shut in.
        """
        answer = self._answer(program)
        if "missing" in answer:
            raise RuntimeError(f"the sandbox lost {answer['missing']}: {answer['reason']}")
        return Verdict(**answer)

    def run_all(
        self, jobs: Iterable[tuple[T, Program | None]], workers: int
    ) -> Iterator[tuple[T, Verdict | None]]:
        """Yields the verdicts of programs, in their order.

        Args:
          jobs: What to call a program and it, or None if there is none and no verdict either;
            taken as places become free.
          workers: Programs at a time.
        """
        waiting: collections.deque[tuple[T, concurrent.futures.Future[Verdict | None]]]
        waiting = collections.deque()
        pool = concurrent.futures.ThreadPoolExecutor(workers)
        try:
            for name, program in jobs:
                waiting.append((name, pool.submit(self._run_if_any, program)))
                while len(waiting) >= 2 * workers or (waiting and waiting[0][1].done()):
                    name, future = waiting.popleft()
                    yield name, future.result()
            for name, future in waiting:
                yield name, future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _run_if_any(self, program: Program | None) -> Verdict | None:
        return None if program is None else self.run(program)

    def _answer(self, program: Program) -> dict[str, Any]:
        """Returns what the warden says."""
        settings = {"limits": dataclasses.asdict(self.limits), "without": self.without}
        job = {"program": program.source, "test": program.test, "entry_point": program.entry_point}
        with self._folder() as folder:
            start = _START.format(package=_PACKAGE)
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", start, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={},
                cwd=folder,
                start_new_session=True,
            )
            limit = self.limits.wall_seconds + _GRACE
            try:
                said, errors = process.communicate(json.dumps(job).encode(), timeout=limit)
            except BaseException:
                process.kill()
                process.communicate()
                raise
        if process.returncode or not said:
            last = errors.decode(errors="replace").strip().rpartition("\n")[2]
            raise RuntimeError(f"the sandbox failed: {last or 'it said nothing'}")
        return json.loads(said)

    @contextlib.contextmanager
    def _folder(self) -> Iterator[str]:
        """Gives the folder to start in; inside namespaces there will be another one."""
        if NAMESPACES not in self.without:
            yield "/"
            return
        folder = tempfile.mkdtemp(prefix="flexmdm-program-")
        try:
            if os.geteuid() == 0:
                os.chown(folder, NOBODY, NOBODY)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _tried(limits: Limits = Limits()) -> tuple[Sandbox, dict[str, str]]:
    """Returns (a sandbox that works here, what it lacks and why).

    Raises:
      UserError: If there is none.
    """
    if sys.platform != "linux":
        raise UserError(f"programs are run on Linux alone, and this is {sys.platform}")
    missing: dict[str, str] = {}
    while True:
        sandbox = Sandbox(limits, tuple(missing))
        try:
            answer = sandbox._answer(_TRIAL)
        except RuntimeError as error:
            raise UserError(f"no program can be run here: {error}") from None
        if "missing" not in answer:
            break
        missing[answer["missing"]] = answer["reason"]
    if answer["outcome"] != "passed":
        raise UserError(f"no program can be run here: {answer['outcome']}, {answer['reason']}")
    return sandbox, missing


def protections() -> tuple[str, ...]:
    """Returns the names of the protections that this machine has, after trying them."""
    sandbox, _ = _tried()
    return sandbox.protections
