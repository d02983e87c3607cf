"""What a sampler is: the kinds it is made of, which are compiled, and its numbers."""

import dataclasses

import numpy as np

from flexmdm_jax.process import Process
from flexmdm_jax.ranges import (
    CountOrZero,
    Positive,
    PositiveOrZero,
    PositiveShare,
    Ranged,
    ShareBelowOne,
)
from flexmdm_jax.sampling.correctors import Remask
from flexmdm_jax.sampling.events import EventByEvent
from flexmdm_jax.sampling.insertions import Binomial, InsertionRule, Poisson
from flexmdm_jax.sampling.leaps import EventsPerStep, Grid
from flexmdm_jax.sampling.lengths import NO_LIMIT
from flexmdm_jax.sampling.state import Pace, Settings
from flexmdm_jax.sampling.unmasking import ExactRate, TauLeaping, UnmaskingRule
from flexmdm_jax.schedules import Linear, Power, Schedule

# Calls to a slot that no row needs: an insertion and an unmasking take two each when drawn event
# by event, as many proposals may be rejected, and correctors go back.
_CALLS_PER_SLOT = 16


@dataclasses.dataclass(frozen=True)
class SamplerConfig(Ranged):
    """How to sample.

        >>> SamplerConfig()                       # adaptive steps
        >>> SamplerConfig(steps=64)               # so many calls of the network for every row
        >>> SamplerConfig(exact=True)             # event by event, no steps
        >>> SamplerConfig.paper(steps=1024)       # Algorithm 1 of the paper

    Attributes:
      steps: Calls of the network on a fixed grid; 0 for adaptive steps.
      events_per_step: κ, the insertions and unmaskings expected of an adaptive step.
      exact: Draw event by event instead; see EventByEvent.
      grid: Maps equal parts of [0, 1] to the times of a fixed grid's steps; see Grid.
      insert_rest: On a fixed grid, insert every token still missing in the step before the last.
      rule: Which masks each step unmasks.
      insertions: How many masks each step inserts.
      corrector: What takes rows back now and then, or None.
      temperature: Divides the logits; 0, or next to nothing, takes the most likely token.
      top_k: Draw among the k most likely tokens only; 0 for all.
      top_p: Draw among the most likely tokens that together reach this probability.
      finish_below: ε: a row without masks is finished when fewer tokens than this are expected to
        be missing. With exact posteriors its law changes by at most ε in total variation; with
        a network that is an estimate.
      min_length: FlexMDM only: generated tokens at least; see scaled_gaps().
      max_length: FlexMDM only: generated tokens at most; 0 for no limit.
      max_calls: Calls of the network at most; the last unmasks all masks there are. 0 for a number
        that only a broken network reaches.
      block_length: MDM on a fixed grid only; see Grid.

    Raises:
      ValueError: If settings contradict each other.
    """

    steps: CountOrZero = 0
    events_per_step: Positive = 1.0
    exact: bool = False
    grid: Schedule = Power()
    insert_rest: bool = True
    rule: UnmaskingRule = ExactRate()
    insertions: InsertionRule = Binomial()
    corrector: Remask | None = None
    temperature: PositiveOrZero = 1.0
    top_k: CountOrZero = 0
    top_p: PositiveShare = 1.0
    finish_below: ShareBelowOne = 0.0
    min_length: CountOrZero = 0
    max_length: CountOrZero = 0
    max_calls: CountOrZero = 0
    block_length: CountOrZero = 0

    def __post_init__(self):
        super().__post_init__()
        if self.exact and self.steps:
            raise ValueError(f"exact sampling takes no steps; leave out steps = {self.steps}")
        if self.exact and isinstance(self.rule, TauLeaping):
            raise ValueError("exact sampling draws single events; tau_leaping needs steps")
        if self.exact and not self.rule.follows_time:
            raise ValueError("exact sampling draws single events; thresholds and bounds need steps")
        if self.corrector and self.corrector.every == 1 and self.steps:
            raise ValueError("a grid has no steps left at its end; choose every < 1, or no steps")
        if self.min_length and 1 in (self.steps, self.max_calls):
            raise ValueError(f"min_length = {self.min_length} takes two calls of the network")
        if self.block_length and not self.steps:
            raise ValueError(f"block_length = {self.block_length} needs a number of steps")
        if self.block_length and self.corrector:
            raise ValueError("blocks are filled one by one; leave the corrector out")
        if self.max_length and self.min_length > self.max_length:
            raise ValueError(
                f"min_length = {self.min_length} is more than max_length = {self.max_length}"
            )
        if self.min_length and not self._keeps_lengths:
            raise ValueError(
                f"min_length = {self.min_length}: neither Poisson insertions nor the paper's "
                "sampler can promise a length"
            )

    @property
    def _keeps_lengths(self) -> bool:
        return self.exact or (not isinstance(self.insertions, Poisson) and self.insert_rest)

    @classmethod
    def paper(cls, steps: int, **settings) -> "SamplerConfig":
        """Returns the paper's sampler (Algorithm 1): equal steps, τ-leaping, Poisson insertions.

        Nothing is inserted in its last step, so what is missing then stays missing.

        Args:
          steps: Calls of the network.
          **settings: Other attributes.
        """
        kinds = {"grid": Linear(), "rule": TauLeaping(), "insertions": Poisson()}
        return cls(**{"steps": steps, "insert_rest": False} | kinds | settings)

    @property
    def pace(self) -> Pace:
        """Returns what decides when a row's next call is."""
        if self.exact:
            return EventByEvent()
        if self.steps:
            return Grid(self.grid, self.insert_rest, self.block_length)
        return EventsPerStep()

    @property
    def restricts(self) -> bool:
        """Returns whether f is restricted; finding the likeliest tokens has to be compiled in."""
        return self.top_k > 0 or self.top_p < 1

    @property
    def kinds(self) -> "SamplerConfig":
        """Returns the sampler without the numbers that are data: what is compiled once."""
        numbers = {name: getattr(_PLAIN, name) for name in _NUMBERS}
        steps, top_k = min(self.steps, 1), int(self.restricts)
        return dataclasses.replace(self, **numbers, steps=steps, top_k=top_k)

    def settings(self, num_rows: int, length: int) -> Settings:
        """Returns its numbers, the same for every row.

        Args:
          num_rows: Rows, b.
          length: Slots of the buffer.
        """
        calls = _CALLS_PER_SLOT * (length + 4) * max(1.0, 1.0 / self.events_per_step)
        if self.corrector:
            calls *= 1.0 + self.corrector.size / self.corrector.every
        calls = int(min(max(calls, 4 * self.steps), NO_LIMIT))
        # A grid ends by itself.
        asked = 0 if self.max_calls >= self.steps > 0 else self.max_calls
        whole = lambda x: np.full(num_rows, x, np.int32)  # noqa: E731
        real = lambda x: np.full(num_rows, x, np.float32)  # noqa: E731
        return Settings(
            temperature=real(self.temperature),
            top_k=whole(self.top_k),
            top_p=real(self.top_p),
            steps=whole(self.steps),
            events_per_step=real(self.events_per_step),
            max_calls=whole(asked or calls),
            finish_below=real(self.finish_below),
            min_length=whole(self.min_length),
            max_length=whole(self.max_length or NO_LIMIT),
        )

    def check(self, process: Process) -> None:
        """Raises ValueError if it asks for what a process cannot do."""
        if process.inserts:
            if self.block_length:
                raise ValueError("block_length needs slots that do not move: it is for MDM only")
            return
        if self.min_length or self.max_length:
            raise ValueError("MDM inserts nothing: a least or largest length is for FlexMDM only")
        if self.corrector and not self.rule.follows_time:
            raise ValueError(
                "MDM with thresholds and bounds knows no time for a corrector to go back in"
            )


# What Settings holds; steps and top_k too, but whether there are any is a kind.
_NUMBERS = (
    "events_per_step",
    "temperature",
    "top_p",
    "finish_below",
    "min_length",
    "max_length",
    "max_calls",
)
_PLAIN = SamplerConfig()
