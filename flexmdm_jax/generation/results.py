"""What a request has come to."""

import dataclasses
from typing import Any

from flexmdm_jax.data.tokenizers import Tokenizer
from flexmdm_jax.generation.pools import Row
from flexmdm_jax.generation.requests import Request
from flexmdm_jax.generation.texts import split_text


@dataclasses.dataclass(frozen=True)
class Result:
    """A sample.

    Attributes:
      id: Its request's.
      sample: Its number among the request's samples, from 0.
      text: The whole, with what was given.
      generated: What was written, gap by gap.
      tokens: Token ids of the whole, END not among them.
      length: Their number.
      calls: Calls of the network.
      inserted: Insertions.
      broken: Of them those whose rate was above its bound; see Samples.
      truncated: Whether there was no room for all of it.
      cut_short: Whether calls ran out.
      seed: With the sample's number, all of its noise.
    """

    id: str | int
    sample: int
    text: str
    generated: tuple[str, ...]
    tokens: tuple[int, ...]
    length: int
    calls: int
    inserted: int
    broken: int
    truncated: bool
    cut_short: bool
    seed: int

    def __str__(self) -> str:
        return self.text

    def json(self) -> dict[str, Any]:
        """Returns it as JSON has it."""
        return dataclasses.asdict(self)

    @classmethod
    def of(
        cls,
        row: Row,
        request: Request,
        sample: int,
        gaps: tuple[int, ...],
        tokenizer: Tokenizer,
    ) -> "Result":
        """Returns the result of a finished row.

        Args:
          row: Grown for the request.
          request: It; with a seed.
          sample: Which of its samples.
          gaps: Its gaps, counted in given tokens.
          tokenizer: Makes texts.
        """
        tokens = row.tokens.tolist()
        return cls(
            id=request.id,
            sample=sample,
            text=tokenizer.decode(tokens),
            generated=tuple(split_text(tokenizer, tokens, row.fixed.tolist(), gaps)),
            tokens=tuple(tokens),
            length=len(tokens),
            calls=row.calls,
            inserted=row.inserted,
            broken=row.broken,
            truncated=row.truncated,
            cut_short=row.cut_short,
            seed=request.seed,
        )
