"""Gaps that nothing is inserted into, by task: samplers close them, and likelihoods charge nothing.

Each function takes which tokens of a stored sequence are given, its END last and never among them.
What is generated does not show in what they return: of two subgoals that happen to be neighbours
nobody is told so.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from flexmdm_jax.process import Process

# Which tokens are given -> before which nothing is inserted.
Close = Callable[[Bool[np.ndarray, "n"]], Bool[np.ndarray, "n"]]


def inside_prompt(given: Bool[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Returns the gaps up to a prompt's last token; behind it the text goes on."""
    return np.logical_and.accumulate(given)


def around_span(given: Bool[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Returns the gaps before a span, and those behind the first token after it.

    The span holds a token at least, so given neighbours lie on the same side of it.
    """
    # END belongs to what stands after the span, if anything does.
    given = np.append(given[:-1], given[-2:-1].any())
    return given & np.append(True, given[:-1])


def outside_ends(given: Bool[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Returns the gaps before a path's first cell and behind its last, if these are given."""
    closed = np.zeros(len(given), bool)
    closed[0], closed[-1] = given[0], given[-2:-1].any()
    return closed


_OF_TASKS: dict[str, Close] = {
    "gsm8k": inside_prompt,
    "infilling": around_span,
    "maze": outside_ends,
}


def close_for(task: Mapping[str, Any] | None, process: Process) -> Close | None:
    """Returns what closes the gaps of a task's sequences; None if nothing does, as for MDM."""
    return _OF_TASKS.get(task["kind"]) if task and process.inserts else None
