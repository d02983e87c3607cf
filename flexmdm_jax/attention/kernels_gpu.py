"""Bodies of the GPU kernels: three warpgroups, of which one loads what the other two compute with.

A thread block owns BLOCK slots of one row and head, half of them each computing warpgroup; tiles of
the slots that share a segment with them stream past (streams.py). The running softmax is that of
FlashAttention-2 (Dao, 2023), in powers of two, the roles those of FlashAttention-3 (Shah et al.,
2024).
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from flexmdm_jax.attention import streams
from flexmdm_jax.attention.hopper import Hopper, Interpreter, Ring, by_role, fetch, store
from flexmdm_jax.attention.streams import BLOCK, GROUP, GROUPS

LOG2_E = math.log2(math.e)
# Masked scores are -inf and this is below any score, so exp2(masked - running maximum) is 0.
LOWEST = -1e30
# Of the grid, and last of the warpgroups in a block.
AXES = ("row", "head", "block", "group")


@dataclasses.dataclass(frozen=True)
class Body:
    """What the kernels are built from.

    Attributes:
      machine: What computes.
      queries: Query heads per head of k and v.
      scale: Scores are multiplied by this.
    """

    machine: Hopper | Interpreter
    queries: int
    scale: float

    @property
    def log_scale(self) -> float:
        """The scale of scores that are exponents of two."""
        return self.scale * LOG2_E


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a warpgroup works: its row, head, block of slots and number in the block."""

    row: Any
    head: Any
    block: Any
    group: Any

    @classmethod
    def here(cls) -> "Place":
        """Returns the place of the warpgroup that asks."""
        return cls(*(lax.axis_index(name) for name in AXES))

    @property
    def slots(self):
        """The slots it owns."""
        return pl.ds(self.block * BLOCK + self.group * GROUP, GROUP)


@dataclasses.dataclass(frozen=True)
class Work:
    """A warpgroup's part of the table of streams: see there."""

    first: Any
    steps: Any
    needed: Any
    needed_end: Any
    whole: Any
    whole_end: Any

    @classmethod
    def read(cls, ref, at: Place) -> "Work":
        """Returns the work of a place; the warpgroup that loads needs the first two only."""
        group = lax.rem(at.group, jnp.int32(GROUPS)) * streams.GROUP_WIDTH
        shared = (streams.FIRST, streams.STEPS)
        own = (streams.NEEDED, streams.NEEDED_END, streams.WHOLE, streams.WHOLE_END)
        columns = (*shared, *(group + column for column in own))
        return cls(*(ref[at.row, at.block, column] for column in columns))

    def slots(self, i, tile: int):
        """The slots of the i-th tile."""
        return pl.ds(self.first + i * tile, tile)

    def visit(self, ring: Ring, before, use, carry):
        """Returns the last carry = use(i, tile, carry) of the tiles it needs.

        Args:
          ring: Where the tiles pass.
          before: How many tiles of an earlier stream have passed.
          use: What to do with a tile.
          carry: What the first gets.
        """
        start, stop = before + self.needed, before + self.needed_end
        ring.skip(before, start)
        carry = ring.read(start, stop, lambda i, *args: use(i - before, *args), carry)
        ring.skip(stop, before + self.steps)
        return carry

    def mask(self, machine, i, scores, bounds):
        """Returns scores with -inf where the slots of a pair do not share a segment.

        Args:
          machine: What computes.
          i: Number of the tile.
          scores: Of the slots a warpgroup owns, in rows, with those of a tile.
          bounds: First and one-past-last slot of the segment of each row's slot.
        """

        def masked():
            start, stop = (machine.load(bounds, n, axis=0) for n in (0, 1))
            over = lambda x: _over(x, scores.shape, 0)  # noqa: E731
            since = machine.column(scores.shape) + (self.first + i * scores.shape[1]) - over(start)
            # As unsigned numbers, what lies before the start lies far beyond the end.
            inside = since.astype(jnp.uint32) < over((stop - start).astype(jnp.uint32))
            return jnp.where(inside, scores, -jnp.inf)

        whole = (i >= self.whole) & (i < self.whole_end)
        return lax.cond(whole, lambda: scores, masked)


def _over(x, shape, axis: int):
    """Returns one value for each row (axis 0) or column (1), repeated over a matrix."""
    return lax.broadcast_in_dim(x, shape, [axis])


def _load_keys(ring: Ring, work: Work, at: Place, body: Body, *refs):
    """Fills a ring with the keys and values that stream past a block of queries."""
    tile = ring.buffers[0].shape[1]
    head = lax.div(at.head, jnp.int32(body.queries))
    ring.fill(work.steps, lambda i: [ref.at[at.row, work.slots(i, tile), head] for ref in refs])


def forward_kernel(
    q_ref, k_ref, v_ref, bounds_ref, work_ref, out_ref, lse_ref, own, fetched, ring, *, body: Body
):
    """Writes the output and log-sum-exp of a block of queries."""
    at, machine, ring = Place.here(), body.machine, Ring(*ring)
    work = Work.read(work_ref, at)

    def compute():
        bounds, q, lse_smem = (ref.at[at.group] for ref in own)
        place = (at.row, at.slots, at.head)
        fetch(
            fetched.at[at.group],
            (bounds_ref.at[at.row, :, at.slots], bounds),
            (q_ref.at[place], q),
        )

        def tile(i, buffers, carry):
            k, v = buffers
            previous, total, out = carry
            [s] = machine.products((q, k))
            s = work.mask(machine, i, s, bounds)
            highest = jnp.maximum(previous, s.max(axis=1) * body.log_scale)
            p = jnp.exp2(s * body.log_scale - _over(highest, s.shape, 0))
            decay = jnp.exp2(previous - highest)
            total = total * decay + p.sum(axis=1)
            out = machine.add_product(out * _over(decay, out.shape, 0), p.astype(v.dtype), v)
            return highest, total, out

        empty = (
            machine.full((GROUP,), LOWEST),
            machine.full((GROUP,), 0.0),
            machine.full(q.shape, 0.0),
        )
        highest, total, out = work.visit(ring, 0, tile, empty)
        # Padding sees nothing: its output is 0 / 1.
        total = jnp.where(total == 0.0, 1.0, total)
        lse = highest + jnp.log(total) * LOG2_E
        store(
            (out / _over(total, out.shape, 0), q, out_ref.at[place]),
            (lse, lse_smem, lse_ref.at[at.row, at.head, at.slots]),
        )

    by_role(at.group, GROUPS, lambda: _load_keys(ring, work, at, body, k_ref, v_ref), compute)


def query_gradient_kernel(
    q_ref,
    k_ref,
    v_ref,
    grad_ref,
    rows_ref,
    bounds_ref,
    work_ref,
    dq_ref,
    own,
    fetched,
    ring,
    *,
    body: Body,
):
    """Writes the gradient of a block of queries.

    rows_ref holds of each query the log-sum-exp and the sum of output · gradient.
    """
    at, machine, ring = Place.here(), body.machine, Ring(*ring)
    work = Work.read(work_ref, at)

    def compute():
        bounds, q, grad = (ref.at[at.group] for ref in own)
        place = (at.row, at.slots, at.head)
        fetch(
            fetched.at[at.group],
            (bounds_ref.at[at.row, :, at.slots], bounds),
            (q_ref.at[place], q),
            (grad_ref.at[place], grad),
        )
        lse, delta = (
            machine.load(rows_ref, (at.row, at.head, n, at.slots), axis=0) for n in (0, 1)
        )

        def tile(i, buffers, dq):
            k, v = buffers
            s, dp = machine.products((q, k), (grad, v))
            s = work.mask(machine, i, s, bounds)
            p = jnp.exp2(s * body.log_scale - _over(lse, s.shape, 0))
            ds = p * (dp - _over(delta, s.shape, 0))
            return machine.add_product(dq, ds.astype(k.dtype), k)

        dq = work.visit(ring, 0, tile, machine.full(q.shape, 0.0))
        store((dq * body.scale, q, dq_ref.at[place]))

    by_role(at.group, GROUPS, lambda: _load_keys(ring, work, at, body, k_ref, v_ref), compute)


def key_gradient_kernel(
    q_ref,
    k_ref,
    v_ref,
    grad_ref,
    rows_ref,
    bounds_ref,
    work_ref,
    dk_ref,
    dv_ref,
    own,
    fetched,
    ring,
    *,
    body: Body,
):
    """Writes the gradients of a block of keys and values, past which go all heads of queries.

    Scores are held transposed, keys along rows; rows_ref is that of query_gradient_kernel.
    """
    at, machine, ring = Place.here(), body.machine, Ring(*ring)
    work = Work.read(work_ref, at)

    def load():
        def sources(i):
            head = at.head * body.queries + lax.div(i, work.steps)
            slots = work.slots(lax.rem(i, work.steps), ring.buffers[0].shape[1])
            place = (at.row, slots, head)
            return q_ref.at[place], grad_ref.at[place], rows_ref.at[at.row, head, :, slots]

        ring.fill(work.steps * body.queries, sources)

    def compute():
        bounds, k, v = (ref.at[at.group] for ref in own)
        place = (at.row, at.slots, at.head)
        fetch(
            fetched.at[at.group],
            (bounds_ref.at[at.row, :, at.slots], bounds),
            (k_ref.at[place], k),
            (v_ref.at[place], v),
        )

        def tile(i, buffers, carry):
            q, grad, rows = buffers
            dk, dv = carry
            [s] = machine.products((k, q))
            s = work.mask(machine, i, s, bounds)
            p = jnp.exp2(s * body.log_scale - _over(machine.load(rows, 0, axis=1), s.shape, 1))
            dv = machine.add_product(dv, p.astype(grad.dtype), grad)
            # Both products at once would need more registers than there are.
            [dp] = machine.products((v, grad))
            ds = p * (dp - _over(machine.load(rows, 1, axis=1), s.shape, 1))
            return machine.add_product(dk, ds.astype(q.dtype), q), dv

        zeros = machine.full(k.shape, 0.0)
        dk, dv = lax.fori_loop(
            0,
            body.queries,
            lambda head, carry: work.visit(ring, head * work.steps, tile, carry),
            (zeros, zeros),
        )
        store((dk * body.scale, k, dk_ref.at[place]), (dv, v, dv_ref.at[place]))

    by_role(at.group, GROUPS, load, compute)
