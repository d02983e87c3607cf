"""Files of HumanEval infilling (Bavarian et al., 2022): a function with a hole in it, and its test.

One JSON object a line, plain or .gz, as `HumanEval-SingleLineInfilling.jsonl.gz` has them.
"""

import collections
import dataclasses
import gzip
import hashlib
import pathlib
import re
import zlib

import numpy as np

from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.sandbox import Program
from flexmdm_jax.generation.parsing import parse_json
from flexmdm_jax.generation.requests import shown


@dataclasses.dataclass(frozen=True)
class Problem:
    """A program of which the middle is missing.

    Attributes:
      task_id: Its name.
      prompt: What stands before the middle.
      suffix: What stands behind it.
      canonical_solution: A middle that passes.
      test: Python that defines check(function).
      entry_point: The function to check.
    """

    task_id: str
    prompt: str
    suffix: str
    canonical_solution: str
    test: str
    entry_point: str

    def program(self, middle: str) -> Program:
        """Returns the program with a middle as it is: nothing is stripped, cut or indented."""
        return Program(self.prompt + middle + self.suffix, self.test, self.entry_point)


_FIELDS = tuple(field.name for field in dataclasses.fields(Problem))


def read_problems(path: pathlib.Path) -> tuple[list[Problem], str]:
    """Returns the problems of a file and its SHA-256; fields that a problem has besides are left.

    Raises:
      UserError: If the file is missing, damaged or empty, a line is no problem, or two have one
        name.
    """
    try:
        content = path.read_bytes()
        lines = gzip.decompress(content) if path.suffix == ".gz" else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged ({error}); fetch it once more") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a file of HumanEval infilling") from None
    problems = [
        _problem(line, f"{path}, line {number}")
        for number, line in enumerate(lines.split(b"\n"), 1)
        if line.strip()
    ]
    if not problems:
        raise UserError(f"{path} holds no problems")
    [(name, count)] = collections.Counter(x.task_id for x in problems).most_common(1)
    if count > 1:
        raise UserError(f"{path}: {count} problems are called {name!r}; each needs its own task_id")
    return problems, hashlib.sha256(content).hexdigest()


def _problem(line: bytes, place: str) -> Problem:
    try:
        values = parse_json(line)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{place}: {shown(values)}; a problem is an object")
    for name in _FIELDS:
        if not isinstance(values.get(name), str):
            given = shown(values[name]) if name in values else "nothing"
            raise UserError(f"{place}: {name!r} is {given}; it must be a text")
        # JSON may spell one, and no tokenizer or file takes it.
        if re.search("[\ud800-\udfff]", values[name]):
            raise UserError(f"{place}: {name!r} holds half of a surrogate pair")
    return Problem(**{name: values[name] for name in _FIELDS})


def pass_at_k(num: int, passed: int, k: int) -> float:
    """Returns the chance that one of k candidates passes, without bias (Chen et al., 2021, eq. 1).

    1 - C(num - passed, k) / C(num, k), as a product.

    Args:
      num: Candidates that were run, at least k.
      passed: Of them.
      k: As in pass@k.
    """
    missed = np.arange(num - passed + 1, num + 1)
    return 1.0 if num - passed < k else float(1 - np.prod(1 - k / missed))
