"""The joint interpolant: what a clean sequence x₁ looks like at time t (paper, eq. 6)."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from flexmdm_jax.schedules import Schedule
from flexmdm_jax.types import RowKeys, Vocabulary, per_slot

# The largest float32 below 1: hazards are infinite at 1 itself.
_LAST_TIME = 1.0 - 2.0**-24


@flax.struct.dataclass
class Interpolant:
    """A partial sequence x_t, closed up to the left, with what it takes to score a denoiser on it.

    Attributes:
      tokens: x_t: clean tokens, MASK, and END at padding.
      segment_ids: 0 at padding, k at the k-th sequence of the row.
      targets: The token of x₁ behind each slot; END at padding.
      gaps: Tokens of x₁ missing immediately before each slot; END's is the trailing gap.
    """

    tokens: Int[Array, "b l"]
    segment_ids: Int[Array, "b l"]
    targets: Int[Array, "b l"]
    gaps: Float[Array, "b l"]


def corrupt(
    keys: RowKeys,
    tokens: Int[Array, "b l"],
    segment_ids: Int[Array, "b l"],
    fixed: Bool[Array, "b l"],
    t: Float[Array, "b s"],
    *,
    insertion: Schedule,
    unmasking: Schedule,
    vocabulary: Vocabulary,
) -> Interpolant:
    """Returns x_t for a batch of clean rows: each token absent, masked or clean (paper, eq. 6).

    Each token draws an insertion time T₁ ~ α' and an unmasking time T₂ >= T₁ with β(T₂) uniform on
    [β(T₁), 1]; it is absent before T₁, MASK until T₂ and clean after. Fixed tokens have
    T₁ = T₂ = 0; END must be among them unless the insertion schedule is immediate, because it
    carries the trailing gap. A row's noise depends on its key alone, not on the rows beside it or
    on the amount of padding.

    Args:
      keys: One key per row.
      tokens: Clean sequences, each ending in END.
      segment_ids: 0 at padding, k at the k-th sequence of the row.
      fixed: True where a token is always present and clean.
      t: Time of each segment, in [0, 1).
      insertion: α, or immediate for MDM, where nothing is ever absent.
      unmasking: β.
      vocabulary: Ids of MASK and END.
    """
    real = segment_ids > 0
    # Slots come first: the noise of longer rows then begins with that of shorter ones.
    draw = jax.vmap(lambda key: jax.random.uniform(key, (tokens.shape[1], 2)))(keys)
    insertion_level, unmasking_level = draw[:, :, 0], draw[:, :, 1]
    time = per_slot(t, segment_ids)
    present = real & (fixed | (insertion_level < insertion.at(time)))
    # 1 - β(T₂) = (1 - β(T₁)) · uniform; the token is clean once 1 - β(t) has fallen to it.
    survival = unmasking.survival(insertion.inverse(insertion_level)) * (1.0 - unmasking_level)
    masked = present & ~fixed & (survival < unmasking.survival(time))
    state = jnp.where(masked, vocabulary.mask, tokens)
    missing = jnp.cumsum(real & ~present, axis=1)
    return _close_up(present, state, segment_ids, tokens, missing, vocabulary)


def _close_up(present, state, segment_ids, targets, missing, vocabulary) -> Interpolant:
    """Moves the present slots to the left and turns the running count of absences into gaps."""
    operands = (~present, state, segment_ids, targets, missing)
    _, state, segment_ids, targets, missing = jax.lax.sort(
        operands, dimension=1, is_stable=True, num_keys=1
    )
    kept = jnp.arange(present.shape[1])[None, :] < jnp.sum(present, axis=1, keepdims=True)
    before = jnp.pad(missing[:, :-1], ((0, 0), (1, 0)))
    return Interpolant(
        tokens=jnp.where(kept, state, vocabulary.end),
        segment_ids=jnp.where(kept, segment_ids, 0),
        targets=jnp.where(kept, targets, vocabulary.end),
        gaps=jnp.where(kept, missing - before, 0).astype(jnp.float32),
    )


@flax.struct.dataclass
class Times:
    """Times drawn for a batch.

    Attributes:
      t: The times, in [0, 1).
      weight: What a term at each time counts, so that its mean is the integral over time.
    """

    t: Float[Array, "b s"]
    weight: Float[Array, "b s"]


def stratified_times(
    keys: RowKeys, stratum: Int[Array, "b s"], num_strata: int, warp: float = 1.0
) -> Times:
    """Returns low-discrepancy times: one draw in each of num_strata parts of [0, 1).

    With warp = 1 the parts are equal and draws uniform (paper, Appendix F.1). With a larger warp,
    1 - t is a uniform number to that power and terms are weighted in return. That matters for
    variance: a loss term is the hazard 1 / (1 - t) with a chance of about (1 - t) |log(1 - t)|, so
    that uniform times give it an infinite second moment, and any warp > 1 a finite one.

    Args:
      keys: One key per row.
      stratum: The part each entry is drawn from, in [0, num_strata).
      num_strata: How many parts there are.
      warp: At least 1.
    """
    offset = jax.vmap(lambda key: jax.random.uniform(key, stratum.shape[1:]))(keys)
    uniform = jnp.minimum((stratum + offset) / num_strata, _LAST_TIME)
    if warp == 1:
        return Times(t=uniform, weight=jnp.ones_like(uniform))
    rest = 1.0 - uniform
    return Times(t=jnp.minimum(1.0 - rest**warp, _LAST_TIME), weight=warp * rest ** (warp - 1.0))
