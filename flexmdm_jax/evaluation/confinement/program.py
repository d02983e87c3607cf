"""The process of the program: defines its functions, and calls them when it is asked to.

Nothing here is safe from the program, and need not be: whatever it makes of this module, its pipes
take plain values alone, and what they are is judged in another process.
"""

import os
import sys
import types
from collections.abc import Mapping
from typing import Any

from flexmdm_jax.evaluation.confinement import wire

NAME = "program"


def serve(questions: int, replies: int) -> None:
    """Answers questions until there are no more.

    The first is the source, the answer the names of its functions; the others are calls
    (name, args, kwargs), the answers their values.

    Args:
      questions: A pipe to read from.
      replies: One to write to.
    """
    asked, answered = os.fdopen(questions, "rb"), os.fdopen(replies, "wb")
    source = wire.read(asked)
    module = types.ModuleType(NAME)
    # Where dataclasses and typing look for the module of a class.
    sys.modules[NAME] = module
    wire.write(answered, _answer(_define, source, module))
    while (question := wire.read(asked)) is not None:
        wire.write(answered, _answer(_call, question, module))


def _answer(find: Any, question: Any, module: types.ModuleType) -> dict[str, Any]:
    """Returns {"value"} or {"raised": [kind, message]}."""
    try:
        return {"value": find(question, module)}
    # SystemExit as well: the process has to be there for the next question.
    except BaseException as error:
        return {"raised": [type(error).__name__, _text(error)]}


def _text(error: BaseException) -> str:
    try:
        return str(error)[:1000]
    except Exception:
        return ""


def _define(source: str, module: types.ModuleType) -> list[str]:
    exec(compile(source, f"<{NAME}>", "exec"), module.__dict__)
    return [name for name, value in vars(module).items() if callable(value)]


def _call(question: Mapping[str, Any], module: types.ModuleType) -> Any:
    args, kwargs = wire.from_wire(question["args"]), wire.from_wire(question["kwargs"])
    return wire.to_wire(getattr(module, question["name"])(*args, **kwargs))
