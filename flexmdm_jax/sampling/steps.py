"""One leap in time: which masks are unmasked, and to what."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from flexmdm_jax.ranges import CountOrZero, OneOrMore, Ranged
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
    """

    tokens: Int[Array, "b l"]
    confidence: Float[Array, "b l"] | None


@flax.struct.dataclass
class Choice:
    """The masks a step unmasks and the tokens they turn into.

    Attributes:
      slots: True at the masks that are unmasked.
      tokens: Their tokens; anything elsewhere.
    """

    slots: Slots
    tokens: Int[Array, "b l"]


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


@runtime_checkable
class UnmaskingRule(Protocol):
    """Chooses the masks to unmask in one step. Strategies are frozen dataclasses."""

    confidence: str | None

    def choose(
        self,
        keys: RowKeys,
        masked: Slots,
        draw: DrawFn,
        unmasking: Schedule,
        t: Rows,
        t_next: Rows,
        finish: Bool[Array, "b"],
    ) -> Choice:
        """Returns the masks to unmask among the masked slots; in rows that finish, all of them."""
        ...


def _uniform_by_slot(keys: RowKeys, length: int) -> Float[Array, "b l"]:
    return jax.vmap(lambda key: jax.random.uniform(key, (length,)))(keys)


class _Independent:
    """Each mask decides for itself; the decision needs no logits, so it comes before decoding."""

    confidence: ClassVar[None] = None

    def choose(self, keys, masked, draw, unmasking, t, t_next, finish) -> Choice:
        """Returns the masks to unmask among the masked slots; in rows that finish, all of them."""
        chance = jnp.where(finish, 1.0, self.chance(unmasking, t, t_next))
        chosen = masked & (_uniform_by_slot(keys, masked.shape[1]) < chance[:, None])
        return Choice(slots=chosen, tokens=draw(chosen).tokens)


@dataclasses.dataclass(frozen=True)
class TauLeaping(_Independent):
    """The paper's vanilla sampler (Subroutine 2): unmask iff exactly one Poisson event occurs.

    With rate r = hazard · τ spread over tokens by f, exactly one event of one token has
    probability r · exp(-r), and the token is then distributed as f.
    """

    def chance(self, unmasking: Schedule, t: Rows, t_next: Rows) -> Rows:
        """Returns the chance that a mask is unmasked between t and t_next."""
        rate = unmasking.hazard(t) * (t_next - t)
        return rate * jnp.exp(-rate)


@dataclasses.dataclass(frozen=True)
class ExactRate(_Independent):
    """Unmask with exactly the probability the schedule gives the step."""

    def chance(self, unmasking: Schedule, t: Rows, t_next: Rows) -> Rows:
        """Returns the chance that a mask is unmasked between t and t_next."""
        return unmasking.leap(t, t_next)


@dataclasses.dataclass(frozen=True)
class Adaptive(Ranged):
    """Unmask the most confident masks first (paper, Appendix E.1).

    Their number K is Poisson with the mean the schedule gives, but no more than are eligible.

    Attributes:
      confidence: One of CONFIDENCES.
      window_factor: γ₁; with window_size, only the leftmost min(⌊γ₁K⌋, γ₂) masks are eligible.
      window_size: γ₂, or 0 for no sliding window.
    """

    confidence: str = "top_prob"
    window_factor: OneOrMore = 5.0
    window_size: CountOrZero = 0

    def __post_init__(self):
        super().__post_init__()
        if self.confidence not in CONFIDENCES:
            raise ValueError(
                f"unknown confidence {self.confidence!r}; choose one of {', '.join(CONFIDENCES)}"
            )

    def choose(self, keys, masked, draw, unmasking, t, t_next, finish) -> Choice:
        """Returns the masks to unmask among the masked slots; in rows that finish, all of them."""
        num_masks = jnp.sum(masked, axis=1)
        mean = unmasking.leap(t, t_next) * num_masks
        count = jnp.where(finish, num_masks, map_rows(jax.random.poisson, keys, mean))
        eligible = masked & (jnp.cumsum(masked, axis=1) <= self._window(count, num_masks, finish))
        drawn = draw(eligible)
        if self.confidence == "leftmost":
            return Choice(slots=eligible, tokens=drawn.tokens)
        score = jnp.where(eligible, drawn.confidence, -jnp.inf)
        rank = jnp.argsort(jnp.argsort(-score, axis=1, stable=True), axis=1)
        return Choice(slots=eligible & (rank < count[:, None]), tokens=drawn.tokens)

    def _window(self, count, num_masks, finish) -> Int[Array, "b 1"]:
        """Returns how many masks, counted from the left, may be unmasked."""
        window = num_masks
        if self.window_size:
            # Cut to the masks that there are while it is a float, which any factor fits.
            scaled = jnp.minimum(jnp.floor(self.window_factor * count), num_masks)
            limit = jnp.minimum(scaled.astype(jnp.int32), self.window_size)
            window = jnp.where(finish, num_masks, limit)
        if self.confidence == "leftmost":
            window = jnp.minimum(window, count)
        return window[:, None]


RULES = {"exact_rate": ExactRate, "tau_leaping": TauLeaping, "adaptive": Adaptive}
