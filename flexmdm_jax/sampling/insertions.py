"""How many masks a step inserts into each gap."""

import dataclasses
from typing import Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from flexmdm_jax.ranges import Ranged, Share
from flexmdm_jax.rows import map_rows
from flexmdm_jax.types import Encoding, RowKeys

Scalar = Float[Array, ""]


@flax.struct.dataclass
class Insertions:
    """How many masks go before each slot.

    Attributes:
      counts: Masks to insert before each slot; they fit the buffer.
      overflow: True where more were proposed than fit.
      crowded: True where more tokens are missing than a buffer of this length tells apart: in a
        longer one the same noise may insert others.
    """

    counts: Int[Array, "b l"]
    overflow: Bool[Array, "b"]
    crowded: Bool[Array, "b"]


@flax.struct.dataclass
class Limits:
    """What bounds the insertions of a row.

    Attributes:
      room: Slots of the buffer that are left.
      least: Tokens still missing at least, for the length that is asked for.
      most: Tokens still missing at most.
    """

    room: Int[Array, "*rows"]
    least: Int[Array, "*rows"]
    most: Int[Array, "*rows"]


@runtime_checkable
class InsertionRule(Protocol):
    """The law of a step's insertions; each kind has the model's rates in the limit of many steps.

    Where the buffer would overflow, a uniformly random subset of the proposals is kept.
    """

    def draw(
        self,
        keys: RowKeys,
        encoding: Encoding,
        gaps: Float[Array, "b l"],
        leap: Float[Array, "b"],
        limits: Limits,
    ) -> Insertions:
        """Returns the insertions of one step.

        Args:
          keys: One key per row.
          encoding: What the network says.
          gaps: Expected number of tokens missing before each slot, g; 0 where nothing may be
            inserted.
          leap: The chance, row by row, that a missing token is inserted in this step.
          limits: What bounds them.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Poisson:
    """Independent Poisson(leap · gap) counts (paper, Algorithm 1).

    Drawn as their Poisson total, each proposal placed in a gap with probability proportional to
    its rate (Poisson splitting). It cannot promise a row's least length.
    """

    def draw(self, keys, encoding, gaps, leap, limits) -> Insertions:
        """Returns the insertions of one step."""
        return _each_row(self._draw_row, keys, gaps, leap, limits)

    def _draw_row(self, key: Key[Array, ""], gaps: Float[Array, "l"], leap: Scalar, limits: Limits):
        total_key, place_key = jax.random.split(key)
        cumulative = jnp.cumsum(leap * gaps)
        total = jnp.minimum(jax.random.poisson(total_key, cumulative[-1]), limits.most)
        point = jax.random.uniform(place_key, gaps.shape) * cumulative[-1]
        place = jnp.searchsorted(cumulative, point, side="right")
        placed = jnp.arange(len(gaps)) < jnp.minimum(total, limits.room)
        counts = jnp.zeros(gaps.shape, jnp.int32).at[place].add(placed, mode="drop")
        return counts, total > limits.room, jnp.zeros_like(total, bool)


@dataclasses.dataclass(frozen=True)
class Binomial(Ranged):
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

    def draw(self, keys, encoding, gaps, leap, limits) -> Insertions:
        """Returns the insertions of one step."""
        return _each_row(self._draw_row, keys, gaps, leap, limits)

    def _draw_row(self, key: Key[Array, ""], gaps: Float[Array, "l"], leap: Scalar, limits: Limits):
        round_key, thin_key = jax.random.split(key)
        threshold = 0.5 + self.temperature * (jax.random.uniform(round_key, gaps.shape) - 0.5)
        missing = jnp.floor(gaps + threshold).astype(jnp.int32)
        return _thinned(thin_key, missing, gaps, leap, limits)


@dataclasses.dataclass(frozen=True)
class ExactGaps:
    """Independent Binomial(m, leap) counts, m being drawn from the network's distribution of gaps.

    Given the time, those of a gap's missing tokens that a step inserts are a binomial number, so
    this is the process's own law of each gap at any step size. What remains of the step size is the
    dependence between gaps, and between a step's tokens.
    """

    def draw(self, keys, encoding, gaps, leap, limits) -> Insertions:
        """Returns the insertions of one step.

        Raises:
          ValueError: If the network gives no distributions.
        """
        if encoding.gap_logits is None:
            raise ValueError("exact_gaps needs distributions of gaps; the network gives means only")
        return _each_row(self._draw_row, keys, gaps, leap, limits, encoding.gap_logits)

    def _draw_row(
        self,
        key: Key[Array, ""],
        gaps: Float[Array, "l"],
        leap: Scalar,
        limits: Limits,
        logits: Float[Array, "l k"],
    ):
        missing_key, thin_key = jax.random.split(key)
        # The default mode draws 23-bit noise and loses numbers with a chance below about 1e-7.
        missing = jax.random.categorical(missing_key, logits, mode="high")
        missing = jnp.where(gaps > 0, missing, 0).astype(jnp.int32)
        return _thinned(thin_key, missing, gaps, leap, limits)


def _thinned(
    key: Key[Array, ""],
    missing: Int[Array, "l"],
    gaps: Float[Array, "l"],
    leap: Scalar,
    limits: Limits,
) -> tuple[Int[Array, "l"], Bool[Array, ""], Bool[Array, ""]]:
    """Returns (counts, overflow, crowded): each missing token is inserted with chance leap.

    Tokens that a length asks for beyond those are put where gaps are; those beyond the most are
    left out, whichever they are.
    """
    length = len(gaps)
    # Slots first, so that a row's noise does not depend on its padding; one call, since each takes
    # long to compile: an offset, then for every slot a place and two tokens' order and level.
    noise = jax.random.uniform(key, (1 + 5 * length,))
    offset, noise = noise[0], noise[1:].reshape(length, 5)
    place_noise, order_noise, level = noise[:, 0], noise[:, 1:3].ravel(), noise[:, 3:].ravel()
    cumulative = jnp.cumsum(gaps)
    point = place_noise * cumulative[-1]
    wanted = limits.least - jnp.sum(missing)
    extra = jnp.arange(length) < wanted
    place = jnp.searchsorted(cumulative, point, side="right")
    last = jnp.cumsum(missing.at[place].add(extra, mode="drop"))
    # One number for every missing token, unless there are more than could be held. Then the numbers
    # go to some of them, evenly spread over all, whose chances rise in return, so that no gap is
    # neglected.
    number = jnp.arange(2 * length)
    each = jnp.maximum(last[-1] / len(number), 1.0)
    offset = jnp.where(each > 1, offset, 0.0)
    token = jnp.floor((number + offset) * each).astype(jnp.int32)
    gap = jnp.searchsorted(last, token, side="right")
    exists = token < last[-1]
    # In a random order, the first are those that may exist and, of those inserted, those that fit.
    order = jnp.argsort(jnp.where(exists, order_noise, 2.0))
    inserted = exists[order] & (number < limits.most) & (level < leap * each)
    kept = inserted & (jnp.cumsum(inserted) <= limits.room)
    counts = jnp.zeros(length, jnp.int32).at[gap[order]].add(kept, mode="drop")
    return counts, jnp.sum(inserted) > limits.room, (each > 1) | (wanted > length)


def _each_row(draw_row, keys: RowKeys, gaps: Float[Array, "b l"], *rows) -> Insertions:
    """Returns the insertions that draw_row gives as a tuple, row by row."""
    counts, overflow, crowded = map_rows(draw_row, keys, gaps, *rows)
    # Rounding in a cumulative sum must never put a mask into a closed gap.
    return Insertions(jnp.where(gaps > 0, counts, 0), overflow, crowded)


def place_one(
    keys: RowKeys, gaps: Float[Array, "b l"], wanted: Bool[Array, "b"]
) -> Int[Array, "b l"]:
    """Returns the counts of one insertion in each row that wants it, in proportion to its gaps."""
    cumulative = jnp.cumsum(gaps, axis=1)
    point = jax.vmap(jax.random.uniform)(keys)[:, None] * cumulative[:, -1:]
    # The first slot whose sum exceeds the point; a closed gap adds nothing to the sum.
    gap = jnp.argmax(cumulative > point, axis=1)
    slots = jnp.arange(gaps.shape[1])[None, :]
    return (wanted[:, None] & (slots == gap[:, None]) & (gaps > 0)).astype(jnp.int32)


INSERTION_RULES = {"poisson": Poisson, "binomial": Binomial, "exact_gaps": ExactGaps}
