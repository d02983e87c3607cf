"""What numbers a field or a flag may have: kinds of numbers, each a type with its range.

A field or flag is declared with one of these kinds, and nothing else checks it:
`hidden_size: Count`. To a type checker a Count is an int.
"""

import dataclasses
import math
import typing
from collections.abc import Iterator
from typing import Annotated, Any

# Counts end up in arrays of int32.
_LARGEST = 2**31 - 1
# Above it a factor or a rate can only be a mistake, and its products leave float32.
_HUGE = 1e12


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from low to high; never NaN.

    Attributes:
      low: The smallest.
      high: The largest.
      above: Leave out low itself.
      below: Leave out high itself.
    """

    low: int | float
    high: int | float
    above: bool = False
    below: bool = False

    def problem(self, value: int | float) -> str | None:
        """Returns what a number must be and is not, or None if it lies in the range."""
        if isinstance(value, float) and not math.isfinite(value):
            return "must be a finite number"
        too_low = value <= self.low if self.above else value < self.low
        too_high = value >= self.high if self.below else value > self.high
        if not (too_low or too_high):
            return None
        if too_high and self._is_open:
            return f"must be at most {self.high:.10g}"
        return f"must {'be' if self._is_open else 'lie'} {self}"

    @property
    def _is_open(self) -> bool:
        """Returns whether high is there to catch mistakes only."""
        return self.high in (_LARGEST, _HUGE)

    def __str__(self) -> str:
        if self._is_open:
            return "positive" if self.above else f"at least {self.low}"
        return f"in {'(' if self.above else '['}{self.low}, {self.high}{')' if self.below else ']'}"


Count = Annotated[int, Range(1, _LARGEST)]
CountOrZero = Annotated[int, Range(0, _LARGEST)]
CountOrUnset = Annotated[int, Range(-1, _LARGEST)]
TwoOrMore = Annotated[int, Range(2, _LARGEST)]
Length = Annotated[int, Range(2, _LARGEST)]  # of a row: a token and END
Few = Annotated[int, Range(1, 4096)]  # processes, or batches that wait in memory
FewOrZero = Annotated[int, Range(0, 4096)]
Port = Annotated[int, Range(0, 2**16 - 1)]
Seconds = Annotated[int, Range(1, 10**6)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # noise is drawn from 32 bits: 2 ** 32 would be 0 again
Positive = Annotated[float, Range(0, _HUGE, above=True)]
PositiveOrZero = Annotated[float, Range(0, _HUGE)]
OneOrMore = Annotated[float, Range(1, _HUGE)]
Share = Annotated[float, Range(0, 1)]
ShareBelowOne = Annotated[float, Range(0, 1, below=True)]
PositiveShare = Annotated[float, Range(0, 1, above=True)]
ProperShare = Annotated[float, Range(0, 1, above=True, below=True)]


def range_of(kind: Any) -> Range | None:
    """Returns the range of a kind of numbers, or None of a type that is none."""
    found = (x for x in getattr(kind, "__metadata__", ()) if isinstance(x, Range))
    return next(found, None)


class Ranged:
    """A dataclass whose numbers are checked when it is made.

    Raises:
      ValueError: Naming the first field with a number outside its range.
    """

    def __post_init__(self):
        for name, kind in typing.get_type_hints(type(self), include_extras=True).items():
            for place, number, bounds in _numbers(name, getattr(self, name), kind):
                if problem := bounds.problem(number):
                    raise ValueError(f"{place} = {number}; it {problem}")


def _numbers(name: str, value: Any, kind: Any) -> Iterator[tuple[str, int | float, Range]]:
    """Yields (name, number, range) of a field that is a number, or a dict or tuple of them."""
    if typing.get_origin(kind) is dict:
        for key, item in value.items():
            yield from _numbers(f"{name}.{key}", item, typing.get_args(kind)[1])
    elif typing.get_origin(kind) is tuple:
        for item in value:
            yield from _numbers(f"each of {name}", item, typing.get_args(kind)[0])
    elif bounds := range_of(kind):
        yield name, value, bounds
