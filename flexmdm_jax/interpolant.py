"""The joint interpolant: what a clean sequence x₁ looks like at time t (paper, eq. 6)."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from flexmdm_jax.process import Process
from flexmdm_jax.schedules import LAST_TIME
from flexmdm_jax.types import Batch, HostOrDevice, RowKeys, check_row_keys, per_slot


@flax.struct.dataclass
class Interpolant:
    """A partial sequence x_t, closed up to the left, with what it takes to score a denoiser on it.

    Attributes:
      tokens: x_t: clean tokens, MASK, and END at padding.
      segment_ids: 0 at padding, k at the k-th sequence of the row.
      targets: The token of x₁ behind each slot; END at padding.
      gaps: Tokens of x₁ missing immediately before each slot; END's is the trailing gap.
      closed: True where a likelihood does not charge the gap, see Batch. None: nowhere.
    """

    tokens: Int[HostOrDevice, "b l"]
    segment_ids: Int[HostOrDevice, "b l"]
    targets: Int[HostOrDevice, "b l"]
    gaps: Float[HostOrDevice, "b l"]
    closed: Bool[HostOrDevice, "b l"] | None = None


def events(
    levels: Float[HostOrDevice, "*slots 2"],
    fixed: Bool[HostOrDevice, "*slots"],
    t: Float[HostOrDevice, "*slots"],
    process: Process,
) -> tuple[Bool[HostOrDevice, "*slots"], Bool[HostOrDevice, "*slots"]]:
    """Returns which tokens are present at time t, and which of these are MASK (paper, eq. 6).

    All corruption comes down to this: on devices, and on the host, where how long x_t is must be
    known before it is laid out.

    Args:
      levels: Two uniform numbers a token, which say when it is inserted and when unmasked.
      fixed: Tokens with T₁ = T₂ = 0.
      t: Time of each token's sequence, in [0, 1).
      process: When tokens are inserted and unmasked; for MDM nothing is ever absent.
    """
    insertion, unmasking = process.insertion, process.unmasking
    insertion_level, unmasking_level = levels[..., 0], levels[..., 1]
    present = fixed | (insertion_level < insertion.at(t))
    # 1 - β(T₂) = (1 - β(T₁)) · uniform; the token is clean once 1 - β(t) has fallen to it.
    survival = unmasking.survival(insertion.inverse(insertion_level)) * (1.0 - unmasking_level)
    return present, present & ~fixed & (survival < unmasking.survival(t))


def corrupt(keys: RowKeys, batch: Batch, t: Float[Array, "b s"], process: Process) -> Interpolant:
    """Returns x_t for a batch of clean rows: each token absent, masked or clean (paper, eq. 6).

    See events(). END must be among the fixed tokens if any are inserted, because it carries the
    trailing gap. A row's noise depends on its key alone, not on the rows beside it or on the amount
    of padding.

    Args:
      keys: One key per row.
      batch: Clean sequences x₁.
      t: Time of each segment, in [0, 1).
      process: When tokens are inserted and unmasked; for MDM nothing is ever absent.

    Raises:
      ValueError: If there is not one key for each row.
    """
    check_row_keys(keys, batch.tokens.shape[0])
    real = batch.segment_ids > 0
    # Slots come first: the noise of longer rows then begins with that of shorter ones.
    levels = jax.vmap(lambda key: jax.random.uniform(key, (real.shape[1], 2)))(keys)
    present, masked = events(levels, batch.fixed, per_slot(t, batch.segment_ids), process)
    present, masked = real & present, real & masked
    state = jnp.where(masked, process.vocabulary.mask, batch.tokens)
    missing = jnp.cumsum(real & ~present, axis=1)
    closed = None if batch.closed is None else batch.closed & batch.fixed
    slots = (state, batch.segment_ids, batch.tokens, missing, closed)
    return _close_up(present, slots, process.vocabulary)


def _close_up(present, slots, vocabulary) -> Interpolant:
    """Moves the present slots to the left and turns the running count of absences into gaps."""
    arrays, structure = jax.tree.flatten((~present, *slots))
    arrays = jax.lax.sort(arrays, dimension=1, is_stable=True, num_keys=1)
    _, state, segment_ids, targets, missing, closed = jax.tree.unflatten(structure, arrays)
    kept = jnp.arange(present.shape[1])[None, :] < jnp.sum(present, axis=1, keepdims=True)
    before = jnp.pad(missing[:, :-1], ((0, 0), (1, 0)))
    return Interpolant(
        tokens=jnp.where(kept, state, vocabulary.end),
        segment_ids=jnp.where(kept, segment_ids, 0),
        targets=jnp.where(kept, targets, vocabulary.end),
        gaps=jnp.where(kept, missing - before, 0).astype(jnp.float32),
        closed=None if closed is None else kept & closed,
    )


@flax.struct.dataclass
class Times:
    """Times drawn for a batch.

    Attributes:
      t: The times, in [0, 1); 0 where a row has no such segment.
      weight: What a term at each time counts, so that its mean is the integral over time.
    """

    t: Float[HostOrDevice, "b s"]
    weight: Float[HostOrDevice, "b s"]


@flax.struct.dataclass
class Corrupted:
    """Partial sequences to learn from, one or several to a row.

    Attributes:
      x: The sequences.
      times: When they were drawn.
      index: Number of each sequence among all that are trained on; seeds dropout.
    """

    x: Interpolant
    times: Times
    index: Int[HostOrDevice, "b s"]


def stratified_times(
    keys: RowKeys,
    stratum: Int[Array, "b s"] | None = None,
    num_strata: int | None = None,
    warp: float = 1.0,
) -> Times:
    """Returns low-discrepancy times: one draw in each of num_strata parts of [0, 1).

    With warp = 1 the parts are equal and draws uniform (paper, Appendix F.1). With a larger warp,
    1 - t is a uniform number to that power and terms are weighted in return. That matters for
    variance: a loss term is the hazard 1 / (1 - t) with a chance of about (1 - t) |log(1 - t)|, so
    that uniform times give it an infinite second moment, and any warp > 1 a finite one.

    Args:
      keys: One key per row.
      stratum: The part each entry is drawn from, in [0, num_strata); unless told, row i draws one
        time from the i-th part.
      num_strata: How many parts there are; unless told, as many as rows.
      warp: At least 1.

    Raises:
      ValueError: If there is not one key for each row, or an argument is out of range.
    """
    if (stratum is None) != (num_strata is None):
        raise ValueError("give stratum and num_strata together, or neither")
    if not warp >= 1:
        raise ValueError(f"warp = {warp}; it must be at least 1")
    check_row_keys(keys, None if stratum is None else stratum.shape[0])
    if stratum is None:
        stratum, num_strata = jnp.arange(len(keys))[:, None], len(keys)
    offset = jax.vmap(lambda key: jax.random.uniform(key, stratum.shape[1:]))(keys)
    t, weight = warped((stratum + offset) / num_strata, warp)
    return Times(t, weight)


def warped(uniform: HostOrDevice, warp: float) -> tuple[HostOrDevice, HostOrDevice]:
    """Returns (times, their weights) of uniform numbers; see stratified_times()."""
    xp = uniform.__array_namespace__()
    uniform = xp.minimum(uniform, LAST_TIME)
    if warp == 1:
        return uniform, xp.ones_like(uniform)
    rest = 1.0 - uniform
    return xp.minimum(1.0 - rest**warp, LAST_TIME), warp * rest ** (warp - 1.0)
