"""What goes around the sampler's loop: a row's state, what a call shows, and what is then done."""

from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from flexmdm_jax.process import Process
from flexmdm_jax.sampling.canvas import Canvas
from flexmdm_jax.sampling.unmasking import UnmaskingRule
from flexmdm_jax.types import Encoding, HostOrDevice, RowKeys


@flax.struct.dataclass
class Settings:
    """The numbers of a sampler, row by row. They are data: another number compiles nothing.

    Attributes:
      temperature: Divides the logits.
      top_k: Draw among so many tokens; 0 for all.
      top_p: Draw among the tokens that together reach this probability.
      steps: Calls of the network, on a fixed grid.
      events_per_step: Events expected of a step, where steps are adaptive.
      max_calls: Calls of the network at most.
      finish_below: Tokens still expected, below which a row without masks is finished.
      min_length: Generated tokens at least.
      max_length: Generated tokens at most.
    """

    temperature: Float[HostOrDevice, "b"]
    top_k: Int[HostOrDevice, "b"]
    top_p: Float[HostOrDevice, "b"]
    steps: Int[HostOrDevice, "b"]
    events_per_step: Float[HostOrDevice, "b"]
    max_calls: Int[HostOrDevice, "b"]
    finish_below: Float[HostOrDevice, "b"]
    min_length: Int[HostOrDevice, "b"]
    max_length: Int[HostOrDevice, "b"]


@flax.struct.dataclass
class State:
    """Where each row stands.

    Attributes:
      canvas: What is written.
      t: The time of the next call.
      calls: Calls so far.
      done: Finished; the row changes no more.
      truncated: An insertion found no room.
      outgrown: The next call's insertions find no room: the row waits, as it was before the call,
        to be moved to a longer buffer. Only where advance() is told that there is one.
      cut_short: The calls ran out before the row was finished.
      inserted: Insertions so far.
      broken: Of them those whose rate exceeded the bound that it was drawn from; see EventByEvent.
      corrected: How often a corrector has gone back.
      clock: What the pace keeps.
    """

    canvas: Canvas
    t: Float[HostOrDevice, "b"]
    calls: Int[HostOrDevice, "b"]
    done: Bool[HostOrDevice, "b"]
    truncated: Bool[HostOrDevice, "b"]
    outgrown: Bool[HostOrDevice, "b"]
    cut_short: Bool[HostOrDevice, "b"]
    inserted: Int[HostOrDevice, "b"]
    broken: Int[HostOrDevice, "b"]
    corrected: Int[HostOrDevice, "b"]
    clock: Any

    @property
    def rests(self) -> Bool[HostOrDevice, "b"]:
        """Returns the rows that another call would not change."""
        return self.done | self.outgrown

    @classmethod
    def start(cls, canvas: Canvas, clock: Any) -> "State":
        """Returns the state before the first call."""
        zeros = jnp.zeros(canvas.tokens.shape[0], jnp.int32)
        never = zeros > 0
        return cls(
            canvas=canvas,
            t=zeros.astype(jnp.float32),
            calls=zeros,
            done=never,
            truncated=never,
            outgrown=never,
            cut_short=never,
            inserted=zeros,
            broken=zeros,
            corrected=zeros,
            clock=clock,
        )


class Keys(NamedTuple):
    """A call's noise, one key per row for each use."""

    choice: RowKeys
    draw: RowKeys
    insert: RowKeys
    clock: RowKeys
    correct: RowKeys

    @classmethod
    def of_call(cls, keys: RowKeys, number: Int[Array, "b"]) -> "Keys":
        """Returns the keys of a row's call of this number."""
        split = lambda key, n: jax.random.split(jax.random.fold_in(key, n), len(cls._fields))  # noqa: E731
        return cls(*jnp.moveaxis(jax.vmap(split)(keys, number), 1, 0))


@flax.struct.dataclass
class Look:
    """What a call of the network shows.

    Attributes:
      encoding: What it says.
      gaps: Expected number of tokens missing before each slot: 0 where nothing may be inserted,
        and scaled to the lengths that are asked for.
      least: Tokens still missing at least.
      most: Tokens still missing at most.
      masked: Masks, of rows that do not rest.
    """

    encoding: Encoding
    gaps: Float[Array, "b l"]
    least: Int[Array, "b"]
    most: Int[Array, "b"]
    masked: Bool[Array, "b l"]

    @property
    def missing(self) -> Float[Array, "b"]:
        """Returns G, the expected number of tokens that are missing from a row."""
        return jnp.sum(self.gaps, axis=1)

    @property
    def num_masks(self) -> Int[Array, "b"]:
        """Returns m, the masks of a row."""
        return jnp.sum(self.masked, axis=1)


@flax.struct.dataclass
class Move:
    """What a pace does after a call, row by row.

    Attributes:
      t_next: Where the leap from the call's time ends; the same time for no leap.
      after: The time of the next call.
      unmask_all: Unmask all masks that are eligible, whatever the leap.
      unmask_one: Unmask one of them.
      insert: The chance that a missing token is inserted.
      insert_one: Insert one token, in a gap that is drawn in proportion.
      eligible: Masks that may be unmasked.
      ends: The row is done after this.
      broken: The insertion's rate exceeded its bound.
      clock: What the pace keeps.
    """

    t_next: Float[Array, "b"]
    after: Float[Array, "b"]
    unmask_all: Bool[Array, "b"]
    unmask_one: Bool[Array, "b"]
    insert: Float[Array, "b"]
    insert_one: Bool[Array, "b"]
    eligible: Bool[Array, "b l"]
    ends: Bool[Array, "b"]
    broken: Bool[Array, "b"]
    clock: Any


@runtime_checkable
class Pace(Protocol):
    """Decides when a row's next call is, and what happens until then. A frozen dataclass.

    Attributes:
      leaps: Whether several tokens may be inserted at once.
    """

    leaps: ClassVar[bool]

    def start(self, canvas: Canvas, process: Process) -> Any:
        """Returns what it keeps, before the first call."""
        ...

    def move(
        self,
        keys: RowKeys,
        state: State,
        look: Look,
        until: Float[Array, "b"],
        settings: Settings,
        rule: UnmaskingRule,
        process: Process,
    ) -> Move:
        """Returns what to do after a call.

        Args:
          keys: One per row.
          state: Where rows stand.
          look: What the call shows.
          until: A time not to go beyond, unless times are those of a grid.
          settings: Numbers.
          rule: What unmasks.
          process: What the network was trained on.
        """
        ...

    def may_go_back(self, state: State, settings: Settings) -> Bool[Array, "b"]:
        """Returns where a corrector may take a row back in time, after a call."""
        ...
