"""The process of the test: calls a program's functions in another process, and judges.

The test sees functions that ask through a pipe and return plain values, so what it compares, what
it compares with and what it finds never are where the program could reach them.
"""

import builtins
import os
import resource
import signal
import traceback
import types
from typing import Any

from flexmdm_jax.evaluation.confinement import wire

PASSED, FAILED, TIMED_OUT, CRASHED = "passed", "failed", "timed out", "crashed"
# In angles, or its lines would be looked for in a file of that name.
_TEST = "<test>"


class Ended(Exception):  # noqa: N818
    """The program's process has ended, or says what no program of ours would.

    Attributes:
      outcome: What that counts as.
    """

    def __init__(self, outcome: str, reason: str):
        super().__init__(reason)
        self.outcome = outcome


class Caller:
    """Calls what a program defines.

    Once its process has failed to answer it is asked no more, and the failure is kept: a test that
    catches exceptions cannot pass over it.
    """

    def __init__(self, process: int, asks: int, answers: int, cpu_seconds: int):
        """Begins with a process that waits for a program.

        Args:
          process: Its id.
          asks: A pipe to it.
          answers: One from it.
          cpu_seconds: That it may take.
        """
        self._process, self._limit = process, cpu_seconds
        self._asks, self._answers = os.fdopen(asks, "wb"), os.fdopen(answers, "rb")
        self.ended: Ended | None = None

    def define(self, source: str) -> list[str]:
        """Returns the names of the functions of a program.

        Raises:
          Ended: If its process ends.
          Exception: What it raises.
        """
        return self._ask(source)

    def function(self, name: str) -> Any:
        """Returns a function that calls the program's of a name."""

        def call(*args: Any, **kwargs: Any) -> Any:
            arguments = {"args": wire.to_wire(args), "kwargs": wire.to_wire(kwargs)}
            return self._ask({"name": name, **arguments})

        return call

    def _ask(self, question: Any) -> Any:
        if self.ended:
            raise self.ended
        try:
            wire.write(self._asks, question)
            answer = wire.read(self._answers)
            if answer is None:
                raise EOFError
            raised = answer.get("raised")
            value = None if raised else _value(answer["value"])
            error = _exception(*raised) if raised else None
        except (EOFError, BrokenPipeError):
            _, status, usage = os.wait4(self._process, 0)
            self.ended = Ended(*ending(status, usage, self._limit))
            raise self.ended from None
        # Whatever else the program's process may have written.
        except Exception as unreadable:
            reason = f"an answer in no known form ({type(unreadable).__name__})"
            self.ended = Ended(CRASHED, reason)
            raise self.ended from None
        if error:
            raise error
        return value


def _value(answer: Any) -> Any:
    """Returns a value, or the names that definitions are answered with."""
    return list(map(str, answer)) if isinstance(answer, list) else wire.from_wire(answer)


def _exception(kind: str, message: str) -> Exception:
    """Returns the built-in exception of a name; of others one that says the name."""
    found = getattr(builtins, kind, None)
    if isinstance(found, type) and issubclass(found, Exception):
        # Some want more than a text.
        try:
            return found(message)
        except TypeError:
            pass
    return RuntimeError(f"{kind}: {message}")


def ending(status: int, usage: resource.struct_rusage, cpu_seconds: int) -> tuple[str, str]:
    """Returns (outcome, reason) of a process that ended before its time.

    Args:
      status: As wait4() has it.
      usage: Of the process.
      cpu_seconds: That it had.
    """
    by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if by == signal.SIGXCPU or usage.ru_utime + usage.ru_stime >= cpu_seconds:
        return TIMED_OUT, f"not done after {cpu_seconds} s of computing"
    if by:
        return CRASHED, f"killed by signal {by} ({signal.strsignal(by)})"
    return CRASHED, f"ended its process with status {os.WEXITSTATUS(status)}"


def judge(caller: Caller, program: str, test: str, entry_point: str) -> tuple[str, str]:
    """Returns (outcome, the first line of why) of a program under its test.

    Args:
      caller: Of a process that waits for the program.
      program: Source.
      test: Source that defines check(function); it may call other functions of the program.
      entry_point: The function to check.
    """
    try:
        functions = caller.define(program)
        if entry_point not in functions:
            return FAILED, f"the program defines no {entry_point}()"
        # Those of built-in names would change what the test compares with.
        own = [x for x in functions if not hasattr(builtins, x) and not x.startswith("__")]
        space = {name: caller.function(name) for name in own} | {"__name__": "test"}
        exec(compile(test, _TEST, "exec"), space)
        check = space.get("check")
        if not isinstance(check, types.FunctionType) or check.__globals__ is not space:
            return FAILED, "the test defines no check()"
        check(caller.function(entry_point))
    except Ended as error:
        return error.outcome, str(error)
    except BaseException as error:
        if caller.ended:
            return caller.ended.outcome, str(caller.ended)
        return FAILED, _why(error, test)
    if caller.ended:
        return caller.ended.outcome, str(caller.ended)
    return PASSED, ""


def _why(error: BaseException, test: str) -> str:
    """Returns what was raised, and for a bare assert its line."""
    said = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, AssertionError) and not said:
        places = [
            x.lineno for x in traceback.extract_tb(error.__traceback__) if x.filename == _TEST
        ]
        lines = test.splitlines()
        said = lines[places[-1] - 1].strip() if places and places[-1] <= len(lines) else ""
    kind = type(error).__name__
    return (f"{kind}: {said}" if said else kind)[:200]
