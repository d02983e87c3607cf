"""One leap in time: which masks are unmasked, and to what."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from flexmdm_jax.ranges import CountOrZero, OneOrMore, PositiveOrZero, PositiveShare, Ranged
from flexmdm_jax.rows import map_rows
from flexmdm_jax.schedules import Schedule
from flexmdm_jax.types import RowKeys

Rows = Float[Array, "b"]
Slots = Bool[Array, "b l"]


@flax.struct.dataclass
class Draw:
    """A token drawn from f at each requested slot, and how sure f is there.

    Attributes:
      tokens: The drawn tokens.
      confidence: Larger is surer; None if no confidence was asked for.
      probability: Of the drawn token, at temperature 1; None if it was not asked for.
    """

    tokens: Int[Array, "b l"]
    confidence: Float[Array, "b l"] | None
    probability: Float[Array, "b l"] | None = None


@flax.struct.dataclass
class Choice:
    """The masks a step unmasks and the tokens they turn into.

    Attributes:
      slots: True at the masks that are unmasked.
      draw: What they turn into; anything elsewhere.
    """

    slots: Slots
    draw: Draw


DrawFn = Callable[[Slots], Draw]


def top_prob(log_f: Float[Array, "*slots v"]) -> Float[Array, "*slots"]:
    """Returns the largest probability (paper, Appendix E.1)."""
    return jnp.exp(jnp.max(log_f, axis=-1))


def margin(log_f: Float[Array, "*slots v"]) -> Float[Array, "*slots"]:
    """Returns the largest probability minus the second largest."""
    best, second = jnp.moveaxis(jax.lax.top_k(log_f, 2)[0], -1, 0)
    return jnp.exp(best) - jnp.exp(second)


def entropy(log_f: Float[Array, "*slots v"]) -> Float[Array, "*slots"]:
    """Returns minus the entropy, in nats."""
    return jnp.sum(jnp.where(log_f > -jnp.inf, jnp.exp(log_f) * log_f, 0.0), axis=-1)


# "leftmost" prefers earlier slots and needs no probabilities.
CONFIDENCES = {"top_prob": top_prob, "margin": margin, "entropy": entropy, "leftmost": None}


@flax.struct.dataclass
class Span:
    """A leap in time, row by row, and what else a step is to do.

    Attributes:
      t: Where it begins.
      t_next: Where it ends.
      all: Unmask every mask, whatever the leap.
      one: Unmask one mask, and no more.
    """

    t: Rows
    t_next: Rows
    all: Bool[Array, "b"]
    one: Bool[Array, "b"]


@runtime_checkable
class UnmaskingRule(Protocol):
    """Chooses the masks to unmask in one step. Strategies are frozen dataclasses.

    Attributes:
      confidence: One of CONFIDENCES, if choosing needs how sure f is.
      follows_time: Whether the leap decides how many are unmasked.
      keeps_split: Whether masks and clean tokens stay split as the interpolant splits them.
    """

    confidence: str | None
    follows_time: ClassVar[bool]
    keeps_split: ClassVar[bool]

    def choose(
        self, keys: RowKeys, masked: Slots, draw: DrawFn, unmasking: Schedule, span: Span
    ) -> Choice:
        """Returns the masks to unmask among the masked slots."""
        ...


def _uniform_by_slot(keys: RowKeys, length: int) -> Float[Array, "b l"]:
    return jax.vmap(lambda key: jax.random.uniform(key, (length,)))(keys)


class _Independent:
    """Each mask decides for itself; the decision needs no logits, so it comes before decoding."""

    confidence: ClassVar[None] = None
    follows_time: ClassVar[bool] = True

    def choose(self, keys, masked, draw, unmasking, span) -> Choice:
        """Returns the masks to unmask among the masked slots; of those, one at random if asked."""
        chance = jnp.where(span.all, 1.0, self.chance(unmasking, span.t, span.t_next))
        noise = jnp.where(masked, _uniform_by_slot(keys, masked.shape[1]), 2.0)
        first = jnp.arange(masked.shape[1])[None, :] == jnp.argmin(noise, axis=1)[:, None]
        chosen = masked & jnp.where(span.one[:, None], first, noise < chance[:, None])
        return Choice(slots=chosen, draw=draw(chosen))


@dataclasses.dataclass(frozen=True)
class TauLeaping(_Independent):
    """The paper's vanilla sampler (Subroutine 2): unmask iff exactly one Poisson event occurs.

    With rate r = hazard · τ spread over tokens by f, exactly one event of one token has
    probability r · exp(-r), and the token is then distributed as f.
    """

    keeps_split: ClassVar[bool] = False

    def chance(self, unmasking: Schedule, t: Rows, t_next: Rows) -> Rows:
        """Returns the chance that a mask is unmasked between t and t_next."""
        rate = unmasking.hazard(t) * (t_next - t)
        return rate * jnp.exp(-rate)


@dataclasses.dataclass(frozen=True)
class ExactRate(_Independent):
    """Unmask with exactly the probability the schedule gives the step."""

    keeps_split: ClassVar[bool] = True

    def chance(self, unmasking: Schedule, t: Rows, t_next: Rows) -> Rows:
        """Returns the chance that a mask is unmasked between t and t_next."""
        return unmasking.leap(t, t_next)


class _ByConfidence(Ranged):
    """Draws a token at every eligible mask and keeps those it is surest of."""

    keeps_split: ClassVar[bool] = False

    def choose(self, keys, masked, draw, unmasking, span) -> Choice:
        """Returns the surest masks among the masked slots; of those, one if asked."""
        num_masks = jnp.sum(masked, axis=1)
        count = self._count(keys, num_masks, unmasking, span)
        eligible = masked & (jnp.cumsum(masked, axis=1) <= self._window(count, num_masks, span))
        drawn = draw(eligible)
        if drawn.confidence is None:
            return Choice(slots=eligible, draw=drawn)
        score = jnp.where(eligible, drawn.confidence, -jnp.inf)
        rank = jnp.argsort(jnp.argsort(-score, axis=1, stable=True), axis=1)
        sure = (rank < count[:, None]) | (self._sure(score, rank) & ~span.one[:, None])
        return Choice(slots=eligible & sure, draw=drawn)

    def _window(self, count, num_masks, span) -> Int[Array, "b 1"]:
        """Returns how many masks, counted from the left, may be unmasked."""
        return num_masks[:, None]

    def _sure(self, score, rank) -> Slots:
        """Returns the masks that are unmasked however many are asked for."""
        return jnp.zeros(score.shape, bool)


@dataclasses.dataclass(frozen=True)
class Adaptive(_ByConfidence):
    """Unmask the most confident masks first (paper, Appendix E.1).

    Their number K is Poisson with the mean the schedule gives, but no more than are eligible.

    Attributes:
      confidence: One of CONFIDENCES.
      window_factor: γ₁; with window_size, only the leftmost min(⌊γ₁K⌋, γ₂) masks are eligible.
      window_size: γ₂, or 0 for no sliding window.
    """

    follows_time: ClassVar[bool] = True

    confidence: str = "top_prob"
    window_factor: OneOrMore = 5.0
    window_size: CountOrZero = 0

    def __post_init__(self):
        super().__post_init__()
        if self.confidence not in CONFIDENCES:
            raise ValueError(
                f"unknown confidence {self.confidence!r}; choose one of {', '.join(CONFIDENCES)}"
            )

    def _count(self, keys, num_masks, unmasking, span) -> Int[Array, "b"]:
        mean = unmasking.leap(span.t, span.t_next) * num_masks
        count = jnp.where(span.all, num_masks, map_rows(jax.random.poisson, keys, mean))
        return jnp.where(span.one, 1, count)

    def _window(self, count, num_masks, span) -> Int[Array, "b 1"]:
        """Returns how many masks, counted from the left, may be unmasked."""
        window = num_masks
        if self.window_size:
            # Cut to the masks that there are while it is a float, which any factor fits.
            scaled = jnp.minimum(jnp.floor(self.window_factor * count), num_masks)
            limit = jnp.minimum(scaled.astype(jnp.int32), self.window_size)
            window = jnp.where(span.all, num_masks, limit)
        if self.confidence == "leftmost":
            window = jnp.minimum(window, count)
        return window[:, None]


class _Simultaneous(_ByConfidence):
    """Unmasks whatever is sure enough, and one mask at least, at every step; time plays no part.

    Tokens that are unmasked together are drawn independently of each other, so this does not
    converge to the data's law, however small the steps are.
    """

    follows_time: ClassVar[bool] = False

    def _count(self, keys, num_masks, unmasking, span) -> Int[Array, "b"]:
        return jnp.where(span.all, num_masks, 1)


@dataclasses.dataclass(frozen=True)
class Threshold(_Simultaneous):
    """Unmask every mask whose confidence exceeds a threshold, at least one a step.

    As fixed-length samplers do (Wu et al. 2025, Fast-dLLM); here insertions go on beside it.

    Attributes:
      threshold: Confidence to exceed; at 1 a step unmasks one mask.
      confidence: top_prob or margin.
    """

    threshold: PositiveShare = 0.9
    confidence: str = "top_prob"

    def __post_init__(self):
        super().__post_init__()
        if self.confidence not in (known := ("top_prob", "margin")):
            raise ValueError(f"confidence {self.confidence!r}; choose {' or '.join(known)}")

    def _sure(self, score, rank) -> Slots:
        return score > self.threshold


@dataclasses.dataclass(frozen=True)
class EntropyBound(_Simultaneous):
    """Unmask as many masks, most certain first, as keep their entropies' sum within a bound.

    At least one a step (Ben-Hamu et al. 2025, EB-Sampler, whose bound leaves the largest out).

    Attributes:
      bound: γ, in nats; at 0 a step unmasks one mask, and those that are certain.
    """

    confidence: ClassVar[str] = "entropy"

    bound: PositiveOrZero = 0.1

    def _sure(self, score, rank) -> Slots:
        ordered = -jnp.sort(-score, axis=1)
        # Slots that are not eligible come last, with an infinite entropy.
        within = jnp.cumsum(-ordered, axis=1) <= self.bound
        return jnp.take_along_axis(within, rank, axis=1)


RULES = {
    "exact_rate": ExactRate,
    "tau_leaping": TauLeaping,
    "adaptive": Adaptive,
    "threshold": Threshold,
    "entropy_bound": EntropyBound,
}
