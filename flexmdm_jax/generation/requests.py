"""What a user asks for: given texts with gaps among them, and how to fill these."""

import dataclasses
import hashlib
import itertools
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from flexmdm_jax.errors import UserError
from flexmdm_jax.files import json_text
from flexmdm_jax.generation.templates import MARK, parse_template
from flexmdm_jax.ranges import Count, CountOrZero, Seed, range_of
from flexmdm_jax.sampling import SamplerConfig

Part = str | tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Request:
    """Given texts, gaps to fill, and how.

        >>> Request.prompt("Once upon a time")
        >>> Request.infill("def f(x):", "return y")
        >>> Request.template("Dear <gap>, thank you for <gap>.")

    Attributes:
      parts: What is given, in order: texts, or token ids.
      gaps: Where something is written: 0 is before the first part, len(parts) behind the last.
      id: What its results are called by.
      seed: Decides all noise, with the number of a sample; None to have it made by seeded().
      n: Samples.
      sampler: How to sample.
      canvas: Slots that MDM writes on behind what is given; 0: all that a row has.

    Raises:
      UserError: If there are no samples, the seed has more than 32 bits, what is given is neither
        text nor token ids, the gaps are not among it, or the sampler is none.
    """

    parts: tuple[Part, ...] = ()
    gaps: tuple[int, ...] = (0,)
    id: str | int = 0
    seed: int | None = None
    n: int = 1
    sampler: SamplerConfig = SamplerConfig()
    canvas: int = 0

    def __post_init__(self):
        kept: dict[str, Any] = {"n": whole("n", self.n, Count)}
        kept["canvas"] = whole("canvas", self.canvas, CountOrZero)
        if self.seed is not None:
            kept["seed"] = whole("seed", self.seed, Seed)
        # Its letters would each be a part.
        if isinstance(self.parts, str | bytes):
            raise UserError(
                f"parts = {shown(self.parts)}; it must be a tuple of texts and token ids; "
                "Request.prompt() takes a single text"
            )
        kept["parts"] = tuple(map(_checked_part, self.parts))
        kept["gaps"] = gaps = tuple(self.gaps)
        if any(a >= b for a, b in itertools.pairwise((-1, *gaps, len(self.parts) + 1))):
            raise UserError(f"gaps = {gaps}; they must ascend within 0 to {len(self.parts)} parts")
        if not isinstance(self.sampler, SamplerConfig):
            raise UserError(f"sampler = {shown(self.sampler)}; it must be a SamplerConfig")
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    @classmethod
    def prompt(cls, given: Part, **others: Any) -> "Request":
        """Returns a request to continue a text, or token ids."""
        part = _checked_part(given)
        parts = (part,) if part else ()
        return cls(parts, (len(parts),), **others)

    @classmethod
    def infill(cls, prefix: Part, suffix: Part, **others: Any) -> "Request":
        """Returns a request to write what stands between two texts; either may be empty."""
        before, behind = _checked_part(prefix), _checked_part(suffix)
        return cls(tuple(x for x in (before, behind) if x), (1 if before else 0,), **others)

    @classmethod
    def template(cls, text: str, mark: str = MARK, **others: Any) -> "Request":
        """Returns a request to fill every gap of a text.

        Raises:
          UserError: If there is no mark, or two have nothing between them.
        """
        return cls(*parse_template(text, mark), **others)

    def seeded(self, seed: int) -> "Request":
        """Returns the request with a seed: its own, or one made of another and what is given.

        So requests that differ have noise of their own, wherever they stand among others.
        """
        if self.seed is not None:
            return self
        given = json_text([seed, self.parts, self.gaps]).encode()
        own = int.from_bytes(hashlib.sha256(given).digest()[:4], "big")
        return dataclasses.replace(self, seed=own)


def whole(name: str, value: Any, kind: Any) -> int:
    """Returns a number as Python's own, for NumPy and JAX have others.

    Args:
      name: What a message calls it.
      value: It.
      kind: Of the integers that it may be, such as Count.

    Raises:
      UserError: If it is another.
    """
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise UserError(f"{name} = {shown(value)}; it must be an integer") from None
    if problem := range_of(kind).problem(number):
        raise UserError(f"{name} = {number}; it {problem}")
    return number


def _checked_part(part: Any) -> Part:
    """Returns a text, or token ids as Python's integers."""
    if isinstance(part, str):
        return part
    try:
        if isinstance(part, bytes | Mapping):
            raise TypeError
        return tuple(map(operator.index, part))
    except TypeError:
        raise UserError(f"{shown(part)} cannot be given; give a text or token ids") from None


@dataclasses.dataclass(frozen=True)
class Failure:
    """A request that cannot be answered.

    Attributes:
      id: As the request has it; its line's number if that cannot be known.
      error: Why.
    """

    id: str | int
    error: str


def shown(value: Any) -> str:
    """Returns a value as JSON has it, cut to the length of a word in a message."""
    try:
        text = json_text(value, ensure_ascii=False)
    except RecursionError:
        text = "lists within lists"
    except TypeError:
        # From Python, not from JSON.
        text = " ".join(repr(value).split())
    return text if len(text) <= 40 else f"{text[:37]}..."
