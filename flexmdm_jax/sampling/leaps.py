"""Paces that leap: a fixed grid of times, and steps so long that a few events are expected."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from flexmdm_jax.process import Process
from flexmdm_jax.sampling.canvas import Canvas
from flexmdm_jax.sampling.state import Look, Move, Settings, State
from flexmdm_jax.sampling.unmasking import UnmaskingRule
from flexmdm_jax.schedules import LAST_TIME, Power, Schedule

# Each halves what is left to search: more would not change a float32.
_HALVINGS = 32


class Times(NamedTuple):
    """What a step of a grid knows, row by row."""

    t: Float[Array, "b"]
    t_next: Float[Array, "b"]
    finish: Bool[Array, "b"]
    block: Int[Array, "b"]


@dataclasses.dataclass(frozen=True)
class Grid:
    """As many steps as are asked for, at times that a schedule spaces.

    In the last step nothing is inserted and every mask left is unmasked; in the one before it
    every token still missing is inserted, which would be lost otherwise.

    Attributes:
      times: Maps equal parts of [0, 1] to the times of the steps, which lie closest where it is
        flattest: at the end for power and sine, at the start for cosine.
      insert_rest: Insert what is missing in the step before the last; the paper's sampler does not.
      block_length: MDM only: fill blocks of this many slots from left to right, each over its
        share of the steps (semi-autoregressive sampling, LLaDA); 0 for no blocks. Blocks are
        counted in each row from the end of its own prompt, and the last may be shorter.
    """

    leaps: ClassVar[bool] = True

    times: Schedule = Power()
    insert_rest: bool = True
    block_length: int = 0

    def start(self, canvas: Canvas, process: Process) -> Int[Array, "b l"]:
        """Returns the block each slot belongs to, counted from its row's first mask.

        Padding belongs to the last one: no steps are spent on it.
        """
        if not self.block_length:
            return jnp.zeros(canvas.tokens.shape, jnp.int32)
        first = jnp.argmax(canvas.masks(process.vocabulary), axis=1, keepdims=True)
        last = jnp.maximum(jnp.sum(canvas.real, axis=1, keepdims=True) - 1, 0)
        slots = jnp.minimum(jnp.arange(canvas.tokens.shape[1])[None, :], last)
        return (slots - first) // self.block_length

    def times_of_step(
        self, number: Int[Array, "b"], steps: Int[Array, "b"], num_blocks: Int[Array, "b"]
    ) -> Times:
        """Returns times that run from 0 to 1 once per block; a row's first get the odd steps."""
        size, odd = jnp.divmod(steps, num_blocks)
        # The first `odd` blocks take size + 1 steps each, the others size.
        longer = (size + 1) * odd
        late = odd + (number - longer) // jnp.maximum(size, 1)
        block = jnp.where(number < longer, number // (size + 1), late)
        step = number - block * size - jnp.minimum(block, odd)
        size = size + (block < odd)
        return Times(
            # A grid flat at its end may round to 1 too early, where no leap starts.
            t=jnp.clip(self.times.at((step / size).astype(jnp.float32)), 0.0, LAST_TIME),
            t_next=self.times.at(((step + 1) / size).astype(jnp.float32)),
            finish=step + 1 == size,
            block=block,
        )

    def move(
        self, keys, state: State, look: Look, until, settings: Settings, rule, process
    ) -> Move:
        """Returns the leap to the grid's next time."""
        steps, blocks = jnp.maximum(settings.steps, 1), state.clock
        # Where blocks outnumber the steps, the last step fills all that is left.
        blocks = jnp.minimum(blocks, steps[:, None] - 1)
        num_blocks = blocks[:, -1] + 1
        now = self.times_of_step(state.calls, steps, num_blocks)
        after = self.times_of_step(state.calls + 1, steps, num_blocks)
        leap = process.insertion.leap(state.t, now.t_next)
        rest = after.finish & ~now.finish & self.insert_rest
        return Move(
            t_next=now.t_next,
            # Once the rest is inserted, the network is told that nothing is missing.
            after=jnp.where(rest, LAST_TIME, after.t),
            unmask_all=now.finish,
            unmask_one=jnp.zeros_like(now.finish),
            insert=jnp.where(now.finish, 0.0, jnp.where(rest, 1.0, leap)),
            insert_one=jnp.zeros_like(now.finish),
            eligible=look.masked & (blocks == now.block[:, None]),
            ends=state.calls + 1 >= steps,
            broken=jnp.zeros_like(now.finish),
            clock=state.clock,
        )

    def may_go_back(self, state: State, settings: Settings) -> Bool[Array, "b"]:
        """Returns where steps are left that insert."""
        return state.calls + 2 < settings.steps


@dataclasses.dataclass(frozen=True)
class EventsPerStep:
    """Each row leaps as far as a number of events, insertions and unmaskings, is expected.

    The calls of the network then follow the length of what is written. When no more events than
    that are left, they all happen, and what was inserted is unmasked by a last call.
    """

    leaps: ClassVar[bool] = True

    def start(self, canvas: Canvas, process: Process) -> tuple[()]:
        """Returns nothing: the time says it all."""
        return ()

    def move(
        self,
        keys,
        state: State,
        look: Look,
        until: Float[Array, "b"],
        settings: Settings,
        rule: UnmaskingRule,
        process: Process,
    ) -> Move:
        """Returns the leap over which settings.events_per_step events are expected."""
        # Once the rest is inserted, or no room is left, only masks count.
        over = (state.t >= LAST_TIME) | (state.truncated & (state.canvas.room <= 0))
        missing = jnp.where(over, 0.0, look.missing)
        waiting = look.num_masks.astype(jnp.float32) if rule.follows_time else 0.0 * missing
        few = missing + waiting <= settings.events_per_step
        rest = (few | (state.t >= LAST_TIME)) & (until >= 1.0)
        t_next = jnp.where(rest, 1.0, _reach(state.t, missing, waiting, settings, process))
        t_next = jnp.minimum(t_next, until)
        leap = process.insertion.leap(state.t, t_next)
        never = jnp.zeros_like(rest)
        return Move(
            t_next=t_next,
            after=jnp.minimum(t_next, LAST_TIME),
            unmask_all=rest & rule.follows_time,
            unmask_one=never,
            insert=jnp.where(state.t >= LAST_TIME, 0.0, jnp.where(rest, 1.0, leap)),
            insert_one=never,
            eligible=look.masked,
            ends=never,
            broken=never,
            clock=(),
        )

    def may_go_back(self, state: State, settings: Settings) -> Bool[Array, "b"]:
        """Returns everywhere."""
        return jnp.ones_like(state.done)


def _reach(t, missing, waiting, settings: Settings, process: Process) -> Float[Array, "b"]:
    """Returns the time until which the events expected are as many as settings asks for."""

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        to = t + (1.0 - t) * middle
        events = missing * process.insertion.leap(t, to) + waiting * process.unmasking.leap(t, to)
        too_far = events > settings.events_per_step
        return jnp.where(too_far, low, middle), jnp.where(too_far, middle, high)

    _, high = jax.lax.fori_loop(0, _HALVINGS, halve, (jnp.zeros_like(t), jnp.ones_like(t)))
    return t + (1.0 - t) * high
