"""The pace without steps: one event at a time, at its own time (thinning)."""

import dataclasses
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from flexmdm_jax.process import Process
from flexmdm_jax.sampling.canvas import Canvas
from flexmdm_jax.sampling.state import Look, Move, Settings, State
from flexmdm_jax.schedules import LAST_TIME
from flexmdm_jax.types import HostOrDevice, RowKeys

# A rate that exceeds its bound by rounding alone does not break it.
_ROUNDING = 1e-4
# Survivals below it are those of times at which α rounds to 1.
_NOTHING = 2.0**-25


@flax.struct.dataclass
class Proposal:
    """What may happen at the time of the next call.

    Attributes:
      bound: Tokens missing, as expected when the row was last looked at: the rate of insertions
        until something happens is at most the hazard times this.
      insertion: An insertion is proposed.
      unmasking: A mask is unmasked.
    """

    bound: Float[HostOrDevice, "b"]
    insertion: Bool[HostOrDevice, "b"]
    unmasking: Bool[HostOrDevice, "b"]


@dataclasses.dataclass(frozen=True)
class EventByEvent:
    """Draws each event at its own time, without any grid (Ogata's thinning).

    While a row x does not change, the expected number G(x, t) of missing tokens can only fall:
    d G / d ln(1 - α) is the variance of that number. So G at the last look bounds the rate until
    the next event, proposals at that rate are accepted with chance G(x, t) / bound, and with an
    exact denoiser the samples follow the data's law exactly. A row takes two calls per event (one
    where it happens, one that looks at what it left behind) and one per proposal that is rejected.
    Where nothing is ever inserted one call per event will do.

    A network may break the bound; then the proposal is accepted and counted in State.broken.
    """

    leaps: ClassVar[bool] = False

    def start(self, canvas: Canvas, process: Process) -> Proposal:
        """Returns no proposal: the first call looks."""
        nothing = jnp.zeros(canvas.tokens.shape[0], bool)
        return Proposal(jnp.zeros(nothing.shape, jnp.float32), nothing, nothing)

    def move(self, keys: RowKeys, state: State, look: Look, until, settings, rule, process) -> Move:
        """Returns the event that was proposed for this time, or the time of the next proposal."""
        proposed = state.clock
        noise = jax.vmap(lambda key: jax.random.uniform(key, (3,)))(keys)
        missing = jnp.where(state.truncated & (state.canvas.room <= 0), 0.0, look.missing)
        accepted = proposed.insertion & (noise[:, 0] * proposed.bound < missing)
        unmasked = proposed.unmasking
        # What is left behind an unmasking is known where nothing is ever inserted.
        happens = accepted | (unmasked & process.inserts)
        left = look.num_masks - (0 if process.inserts else unmasked)
        t, kind = self._next(state.t, missing, left, noise[:, 1:], process)
        # Nothing happens up to a time that is short of the proposal's.
        goes_on = ~happens & (t <= until)
        never = jnp.zeros_like(happens)
        return Move(
            t_next=state.t,
            after=jnp.where(happens, state.t, jnp.minimum(t, until)),
            unmask_all=never,
            unmask_one=unmasked,
            insert=jnp.zeros_like(state.t),
            insert_one=accepted,
            eligible=look.masked & unmasked[:, None],
            ends=goes_on & ~kind.insertion & ~kind.unmasking,
            broken=accepted & (missing > (1 + _ROUNDING) * proposed.bound),
            clock=Proposal(
                bound=missing,
                insertion=goes_on & kind.insertion,
                unmasking=goes_on & kind.unmasking,
            ),
        )

    def _next(self, t, missing, num_masks, noise, process) -> tuple[Float[Array, "b"], Proposal]:
        """Returns (the time of the next proposal, what it is): a race of insertions and masks.

        1 - α(t') = (1 - α(t)) U^(1/G), and 1 - β(t') = (1 - β(t)) V^(1/m).
        """
        log = jnp.log1p(-noise)
        rest = process.insertion.survival(t) * jnp.exp(log[:, 0] / jnp.maximum(missing, 1e-30))
        insertable = (missing > 0) & (rest > _NOTHING)
        insertion = jnp.where(insertable, process.insertion.inverse_survival(rest), jnp.inf)
        rest = process.unmasking.survival(t) * jnp.exp(log[:, 1] / jnp.maximum(num_masks, 1))
        unmasking = process.unmasking.inverse_survival(rest)
        unmasking = jnp.where(num_masks > 0, unmasking, jnp.inf)
        inserts = insertable & (insertion <= unmasking)
        unmasks = (num_masks > 0) & ~inserts
        # Times near the end may round to 1 or, by their inverse, back.
        t = jnp.clip(jnp.minimum(insertion, unmasking), t, LAST_TIME)
        return t, Proposal(missing, inserts, unmasks)

    def may_go_back(self, state: State, settings: Settings) -> Bool[Array, "b"]:
        """Returns everywhere."""
        return jnp.ones_like(state.done)
