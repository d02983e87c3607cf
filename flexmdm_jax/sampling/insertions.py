"""How many masks a step inserts into each gap."""

import dataclasses
from typing import Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from flexmdm_jax.ranges import Ranged, Share
from flexmdm_jax.rows import map_rows
from flexmdm_jax.sampling.canvas import Canvas
from flexmdm_jax.types import RowKeys

Scalar = Float[Array, ""]


@flax.struct.dataclass
class Insertions:
    """How many masks go before each slot.

    Attributes:
      counts: Masks to insert before each slot; they fit the buffer.
      overflow: True where more were proposed than fit.
    """

    counts: Int[Array, "b l"]
    overflow: Bool[Array, "b"]


@runtime_checkable
class InsertionRule(Protocol):
    """The law of a step's insertions; each kind has the model's rates in the limit of many steps.

    Where the buffer would overflow, a uniformly random subset of the proposals is kept.
    """

    def draw(
        self, keys: RowKeys, canvas: Canvas, gaps: Float[Array, "b l"], leap: Float[Array, "b"]
    ) -> Insertions:
        """Returns the insertions of one step.

        Args:
          keys: One key per row.
          canvas: Where they go.
          gaps: Expected number of tokens missing before each slot, g.
          leap: The chance, row by row, that a missing token is inserted in this step.
        """
        ...


class _PerRow:
    """Draws row by row, from the gaps that are open and the room that is left."""

    def draw(
        self, keys: RowKeys, canvas: Canvas, gaps: Float[Array, "b l"], leap: Float[Array, "b"]
    ) -> Insertions:
        """Returns the insertions of one step."""
        real = canvas.segment_ids > 0
        gaps = jnp.where(real & ~canvas.closed, gaps.astype(jnp.float32), 0.0)
        room = canvas.tokens.shape[1] - jnp.sum(real, axis=1)
        counts, overflow = map_rows(self._draw_row, keys, gaps, leap, room)
        # Rounding in a cumulative sum must never put a mask into a closed gap.
        return Insertions(counts=jnp.where(gaps > 0, counts, 0), overflow=overflow)


@dataclasses.dataclass(frozen=True)
class Poisson(_PerRow):
    """Independent Poisson(leap · gap) counts (paper, Algorithm 1).

    Drawn as their Poisson total, each proposal placed in a gap with probability proportional to
    its rate (Poisson splitting).
    """

    def _draw_row(
        self, key: Key[Array, ""], gaps: Float[Array, "l"], leap: Scalar, room: Int[Array, ""]
    ):
        total_key, place_key = jax.random.split(key)
        cumulative = jnp.cumsum(leap * gaps)
        total = jax.random.poisson(total_key, cumulative[-1])
        point = jax.random.uniform(place_key, gaps.shape) * cumulative[-1]
        place = jnp.searchsorted(cumulative, point, side="right")
        placed = jnp.arange(len(gaps)) < jnp.minimum(total, room)
        counts = jnp.zeros(gaps.shape, jnp.int32).at[place].add(placed, mode="drop")
        return counts, total > room


@dataclasses.dataclass(frozen=True)
class Binomial(_PerRow, Ranged):
    """Independent Binomial(m, leap) counts, m being the gap rounded at random to a whole number.

    Where a gap is known to miss m tokens this is the process's own law at any step size; Poisson
    counts would now and then exceed m, which nothing can mend later. To first order in the leap
    both have the same rates, so both lead to the same law as steps grow.

    Attributes:
      temperature: 1 rounds up as often as the fraction says; 0 takes the nearest whole number, as
        a temperature of 0 takes the likeliest token. A gap known to be closed up to a small error
        then stays closed: at 1, such errors add up over the steps to insertions that are too many.

    Raises:
      ValueError: If the temperature lies outside [0, 1].
    """

    temperature: Share = 1.0

    def _draw_row(
        self, key: Key[Array, ""], gaps: Float[Array, "l"], leap: Scalar, room: Int[Array, ""]
    ):
        round_key, insert_key = jax.random.split(key)
        threshold = 0.5 + self.temperature * (jax.random.uniform(round_key, gaps.shape) - 0.5)
        missing = jnp.floor(gaps + threshold).astype(jnp.int32)
        last = jnp.cumsum(missing)
        # One number for every missing token; more of them than these could not be held anyway.
        level = jax.random.uniform(insert_key, (2 * len(gaps),))
        token = jnp.arange(len(level))
        inserted = (token < last[-1]) & (level < leap)
        rank = jnp.argsort(jnp.argsort(jnp.where(inserted, level, 1.0)))
        gap = jnp.searchsorted(last, token, side="right")
        counts = jnp.zeros(gaps.shape, jnp.int32).at[gap].add(inserted & (rank < room), mode="drop")
        return counts, jnp.sum(inserted) > room


INSERTION_RULES = {"poisson": Poisson, "binomial": Binomial}
