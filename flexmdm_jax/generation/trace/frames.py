"""What a trace is: a text after every call of the network, from what was given to the sample."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Cell(NamedTuple):
    """One token of a frame and what is known of it; see Frame."""

    token: int
    changed: int
    confidence: float | None
    fixed: bool


@dataclasses.dataclass(frozen=True)
class Frame:
    """A text after a call of the network.

    Attributes:
      call: Calls so far; 0 is the start.
      time: Process time of the next call, in [0, 1]; 1.0 when done.
      tokens: Ids, MASK among them, END not.
      changed: Of each token, the call that put it there as it is, by inserting a mask or unmasking
        one; 0 for what was given.
      confidence: Of each token, the probability that the network gave it when it was unmasked;
        None for given tokens and masks.
      fixed: Of each token, whether it was given: prompt, prefix, suffix.

    Raises:
      ValueError: If they are not equally many.
    """

    call: int
    time: float
    tokens: tuple[int, ...]
    changed: tuple[int, ...]
    confidence: tuple[float | None, ...]
    fixed: tuple[bool, ...]

    def __post_init__(self):
        sizes = {len(self.tokens), len(self.changed), len(self.confidence), len(self.fixed)}
        if len(sizes) > 1:
            raise ValueError(f"call {self.call}: columns of different lengths, {sorted(sizes)}")

    def rows(self) -> Iterator[tuple]:
        """Returns the columns of each token: (id, changed, confidence, fixed)."""
        return zip(self.tokens, self.changed, self.confidence, self.fixed, strict=True)

    def cells(self, start: int = 0, stop: int | None = None) -> list[Cell]:
        """Returns the tokens from start to stop, one by one."""
        return list(map(Cell._make, itertools.islice(self.rows(), start, stop)))

    @classmethod
    def of(cls, call: int, time: float, cells: list[Cell]) -> "Frame":
        """Returns the frame that holds these cells."""
        columns = zip(*cells, strict=True) if cells else ((), (), (), ())
        return cls(call, time, *map(tuple, columns))


@dataclasses.dataclass(frozen=True)
class Trace:
    """How one text came about; its last frame is the sample.

    Attributes:
      name: The request's id or number.
      frames: The start, then one for every call; calls may be left out, but not turned round.
      details: What to show beside it: sampler, seed, calls, length, truncated.
    """

    name: str
    frames: tuple[Frame, ...]
    details: Mapping[str, str | int | float | bool]
