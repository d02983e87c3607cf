"""What a row grows from: tokens that are given, and the gaps that are to be filled."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from flexmdm_jax.process import Process
from flexmdm_jax.sampling import Canvas
from flexmdm_jax.types import Batch


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """The slots of a row before the first call, without padding.

    Attributes:
      tokens: Given tokens and END (FlexMDM), or given tokens and the masks behind them (MDM).
      closed: True where nothing is inserted before the slot.
      fixed: True where the token is given.
    """

    tokens: Int[np.ndarray, "n"]
    closed: Bool[np.ndarray, "n"]
    fixed: Bool[np.ndarray, "n"]

    @classmethod
    def of(
        cls,
        tokens: Sequence[int] | Int[np.ndarray, "_"],
        gaps: Sequence[int],
        process: Process,
        length: int,
        canvas: int = 0,
    ) -> "Start":
        """Returns the start of given tokens with gaps among them.

            >>> Start.of([5, 6, 7], [3], process, 64)      # continue a prompt
            >>> Start.of([5, 6, 7], [1], process, 64)      # infill between 5 and 6
            >>> Start.of([5, 6, 7], [3], mdm, 64, 16)      # 16 masks behind a prompt

        Args:
          tokens: That stay.
          gaps: Where something may be written: 0 is before the first token, len(tokens) behind the
            last.
          process: FlexMDM's inserts; MDM's masks all that follows.
          length: Slots that a row may have, END included.
          canvas: Masks behind the tokens, MDM only; 0: all that the row has room for.

        Raises:
          ValueError: If the tokens leave no room, MDM is to write anywhere but behind them, or
            FlexMDM is given a canvas.
        """
        count = len(tokens)
        if count >= length:
            raise ValueError(
                f"{count} given tokens leave no room: a row has {length} slots, END included"
            )
        if canvas and process.inserts:
            raise ValueError("FlexMDM finds lengths itself; a canvas is for MDM only")
        if count + canvas > length:
            raise ValueError(
                f"{count} given tokens and a canvas of {canvas} slots do not fit: a row has "
                f"{length} slots"
            )
        end, mask = process.vocabulary.end, process.vocabulary.mask
        rest = [end] if process.inserts else [mask] * (canvas or length - count)
        slots = np.array([*tokens, *rest], np.int32)
        closed = np.ones(len(slots), bool)
        if process.inserts:
            closed[list(gaps)] = False
        elif list(gaps) != [count]:
            raise ValueError(
                "MDM's lengths are fixed, so it writes behind a prompt only; use FlexMDM to fill "
                "gaps before or between given tokens"
            )
        fixed = np.arange(len(slots)) < count + process.inserts
        return cls(slots, closed, fixed)

    @classmethod
    def of_clean(cls, batch: Batch, row: int, process: Process) -> "Start":
        """Returns the start from which a clean row is to be written: what is fixed in it.

        Args:
          batch: Clean rows of one sequence each, in NumPy, in the form that goes with the process.
          row: Which of them.
          process: Decides that form.
        """
        tokens, fixed = batch.tokens[row], batch.fixed[row]
        if not process.inserts:
            free = np.where(fixed, tokens, process.vocabulary.mask)
            return cls(free, np.ones_like(fixed), fixed)
        closed = np.zeros_like(fixed) if batch.closed is None else batch.closed[row]
        return cls(tokens[fixed], closed[fixed], fixed[fixed])

    def canvas(self, length: int, end: int) -> Canvas:
        """Returns a canvas of this one row.

        Args:
          length: Its slots.
          end: The id of END, at padding.
        """
        padded = lambda x, value: np.pad(x, (0, length - len(x)), constant_values=value)[None]  # noqa: E731
        return Canvas(
            tokens=padded(self.tokens, end),
            segment_ids=padded(np.ones(len(self.tokens), np.int32), 0),
            closed=padded(self.closed, False),
            fixed=padded(self.fixed, False),
        )
