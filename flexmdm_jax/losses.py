"""The training loss (paper, eq. 7) and a rigorous bound on the likelihood."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from flexmdm_jax.interpolant import Interpolant, Times, corrupt, stratified_times
from flexmdm_jax.posterior import head_chunk_sizes, map_slots, posterior_logits, sum_slots
from flexmdm_jax.process import Process
from flexmdm_jax.types import (
    Batch,
    Denoiser,
    Encoding,
    HostOrDevice,
    RowKeys,
    Vocabulary,
    check_row_keys,
    per_slot,
)

# (encoding, x_t) -> nats of each gap, zero at padding.
_OfGap = Callable[[Encoding, Interpolant], Float[Array, "b l"]]

# Keeps log g and its gradient finite in float32 where softplus underflows.
_SMALLEST_GAP = 1e-30
# Between 2 and 3 the second moment of a term of the bound is smallest; see stratified_times().
_BOUND_WARP = 2.0


@flax.struct.dataclass
class _Terms:
    """What each slot adds to the loss.

    Attributes:
      masked: Slots with a token to predict.
      unmasking_rate: What -log f counts there, zero elsewhere.
      hidden: What f is computed from.
      insertion: Nats for the gap before each slot, zero at padding.
    """

    masked: Bool[Array, "b l"]
    unmasking_rate: Float[Array, "b l"]
    hidden: Float[Array, "b l d"]
    insertion: Float[Array, "b l"]


def _divergence(encoding: Encoding, x: Interpolant) -> Float[Array, "b l"]:
    """Returns φ(gap, g) of each slot, zero at padding."""
    real = x.segment_ids > 0
    mean = jnp.where(real, jnp.maximum(encoding.gaps, _SMALLEST_GAP), 1.0)
    return jnp.where(real, mean - x.gaps * jnp.log(mean), 0.0)


def _charged(encoding: Encoding, x: Interpolant) -> Float[Array, "b l"]:
    """Returns what the bound charges each gap, φ(gap, g) - gap; a closed one, nothing.

    Of a token that is missing where nothing can be inserted, the likelihood is zero.
    """
    nats = _divergence(encoding, x) - x.gaps
    if x.closed is None:
        return nats
    return jnp.where(x.closed, jnp.where(x.gaps > 0, jnp.inf, 0.0), nats)


def _negative_log_chance(encoding: Encoding, x: Interpolant) -> Float[Array, "b l"]:
    """Returns -log of the chance that the network gives each gap, in nats, zero at padding."""
    real = x.segment_ids > 0
    logits = jnp.where(real[:, :, None], encoding.gap_logits, 0.0)
    number = jnp.minimum(x.gaps, logits.shape[-1] - 1).astype(jnp.int32)
    found = jnp.take_along_axis(logits, number[:, :, None], axis=-1)[:, :, 0]
    return jnp.where(real, jax.nn.logsumexp(logits, axis=-1) - found, 0.0)


def _learned(encoding: Encoding, x: Interpolant) -> Float[Array, "b l"]:
    """Returns what training minimises: of gap distributions, if there are any, the cross-entropy.

    The posterior of the gap minimises it, whose mean is the minimiser of φ.
    """
    of_slot = _divergence if encoding.gap_logits is None else _negative_log_chance
    return of_slot(encoding, x)


def _terms(
    denoiser: Denoiser, x: Interpolant, times: Times, process: Process, of_gap: _OfGap
) -> _Terms:
    """Returns the terms of the slots, of_gap giving the nats of each gap before its rate."""
    t = times.t
    encoding = denoiser.encode(x.tokens, x.segment_ids, process.insertion.at(t))
    real = x.segment_ids > 0
    masked = real & (x.tokens == process.vocabulary.mask)
    rate = per_slot(process.unmasking.hazard(t) * times.weight, x.segment_ids)
    terms = _Terms(
        masked=masked,
        unmasking_rate=jnp.where(masked, rate, 0.0),
        hidden=encoding.hidden,
        insertion=jnp.zeros(masked.shape),
    )
    if not process.inserts:
        return terms
    rate = per_slot(process.insertion.hazard(t) * times.weight, x.segment_ids)
    return terms.replace(insertion=rate * of_gap(encoding, x))


def _negative_log_posterior(denoiser: Denoiser, process: Process):
    """Returns (hidden, targets) -> -log f in nats, for any slots."""

    def nats(hidden, targets):
        logits = posterior_logits(denoiser, hidden, process)
        target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - target

    return nats


def training_loss(
    denoiser: Denoiser,
    interpolant: Interpolant,
    times: Times,
    process: Process,
    *,
    num_groups: int = 1,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns the FlexMDM loss in nats per token of x₁, and metrics (paper, eq. 7).

    The sum over slots of h_β · -log f (masked slots) and h_α · φ(gap, g) (all slots), with
    φ(x, y) = y - x log y, divided by the number of tokens in x₁ (END not counted). For a
    process that inserts nothing it is the MDM loss. If the network gives distributions of gaps,
    -log q(gap) stands in the place of φ: the same hazard times the cross-entropy.

    Args:
      denoiser: The network.
      interpolant: x_t, from corrupt().
      times: When x_t was drawn, and what each time counts.
      process: What x_t was drawn from.
      num_groups: See map_slots.

    Returns:
      The loss, and a dict: unmasking_loss and insertion_loss (nats per token of x₁, their sum is
      the loss); num_sequences, num_tokens (of x₁), num_slots (of x_t), num_places (slots of
      all rows, padding too), num_masks, and num_pairs (attended pairs of slots), as counts.
    """
    terms = _terms(denoiser, interpolant, times, process, _learned)
    unmasking_nats = sum_slots(
        _negative_log_posterior(denoiser, process),
        terms.masked,
        terms.unmasking_rate,
        terms.hidden,
        interpolant.targets,
        sizes=head_chunk_sizes(terms.hidden.shape[-1], process.vocabulary),
        num_groups=num_groups,
    )
    counts = _counts(interpolant, times.t.shape[1], process.vocabulary)
    num_tokens = jnp.maximum(counts["num_tokens"], 1.0)
    unmasking_loss = unmasking_nats / num_tokens
    insertion_loss = jnp.sum(terms.insertion) / num_tokens
    metrics = {"unmasking_loss": unmasking_loss, "insertion_loss": insertion_loss, **counts}
    return unmasking_loss + insertion_loss, metrics


def _counts(x: Interpolant, num_segments: int, vocabulary: Vocabulary):
    real = x.segment_ids > 0
    number = jnp.arange(1, num_segments + 1)
    lengths = jnp.sum(x.segment_ids[:, None, :] == number[None, :, None], axis=2)
    lengths = lengths.astype(jnp.float32)
    counts = {
        "num_sequences": jnp.sum(lengths > 0),
        "num_tokens": jnp.sum(real & (x.targets != vocabulary.end)) + jnp.sum(x.gaps),
        "num_slots": jnp.sum(lengths),
        "num_places": real.size,
        "num_masks": jnp.sum(real & (x.tokens == vocabulary.mask)),
        "num_pairs": jnp.sum(lengths**2),
    }
    return {name: jnp.asarray(value, jnp.float32) for name, value in counts.items()}


def nll_bound(
    keys: RowKeys,
    denoiser: Denoiser,
    batch: Batch,
    process: Process,
    *,
    num_times: int,
    num_groups: int = 1,
) -> Float[Array, "b"]:
    """Returns an unbiased estimate of an upper bound on -log p(x₁), in nats per row.

    The loss of eq. 7 with φ(x, y) = y - x - x log y: given x₁, a labelled path of the process says
    which token each event produced, and its log-ratio to the model's path has this expectation.
    With the exact posterior the mean over data is the data's entropy. Of distributions of gaps the
    mean alone counts, so that bounds of all networks compare. For MDM the bound includes
    predicting the padding, that is, the length.

    Fixed tokens cost nothing: it is a bound given them. Where samplers close the gaps between them
    batch.closed says so, and these cost nothing either.

    Args:
      keys: One key per row.
      denoiser: The network.
      batch: Clean sequences.
      process: What the network was trained on.
      num_times: Stratified times per row; the variance falls with it.
      num_groups: See map_slots.

    Raises:
      ValueError: If there is not one key for each row, or num_times is not at least 1.
    """
    return jnp.mean(_by_time(keys, denoiser, batch, process, num_times, num_groups), axis=0)


@flax.struct.dataclass
class Estimate:
    """Likelihood bounds, each estimated at a few times.

    Attributes:
      nats: nll_bound() of each row.
      errors: Their standard errors, of times and noise; NaN if there was one time only.
    """

    nats: Float[HostOrDevice, "b"]
    errors: Float[HostOrDevice, "b"]


def estimated_nll_bound(
    keys: RowKeys,
    denoiser: Denoiser,
    batch: Batch,
    process: Process,
    *,
    num_times: int,
    num_groups: int = 1,
) -> Estimate:
    """Returns nll_bound() with its standard error; see there for arguments and errors."""
    nats = _by_time(keys, denoiser, batch, process, num_times, num_groups)
    return Estimate(nats=jnp.mean(nats, axis=0), errors=_error_of_mean(nats))


def _by_time(keys, denoiser, batch, process, num_times, num_groups):
    """Returns an estimate of each row's bound from each of num_times times alone [k, b]."""
    num_rows = batch.tokens.shape[0]
    check_row_keys(keys, num_rows)
    if num_times < 1:
        raise ValueError(f"num_times = {num_times}; it must be at least 1")
    of_slot = _negative_log_posterior(denoiser, process)

    def at_time(number):
        noise = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, number)))(keys)
        stratum = jnp.full((num_rows, 1), number)
        times = stratified_times(noise[:, 0], stratum, num_times, _BOUND_WARP)
        x = corrupt(noise[:, 1], batch, times.t, process)
        terms = _terms(denoiser, x, times, process, _charged)
        nats = map_slots(
            lambda chunk: of_slot(*chunk),
            terms.masked,
            (terms.hidden, x.targets),
            sizes=head_chunk_sizes(terms.hidden.shape[-1], process.vocabulary),
            num_groups=num_groups,
        )
        return jnp.sum(terms.unmasking_rate * nats + terms.insertion, axis=1)

    return jax.lax.map(at_time, jnp.arange(num_times))


def _error_of_mean(strata: Float[Array, "k b"]) -> Float[Array, "b"]:
    """Returns the standard error of the mean of one draw in each of k strata.

    The mean's variance is the sum of those within the strata, over k². One draw does not tell its
    variance, but the square of a difference between neighbours is on average both of theirs, and
    more by the square of what their means differ: the error is rather too large than too small
    (collapsed strata; Cochran, Sampling Techniques, 5A.12). The outermost differences count twice,
    since the outermost strata take part in no other.
    """
    num = len(strata)
    if num == 1:
        return jnp.full(strata.shape[1], jnp.nan)
    differences = jnp.pad(jnp.diff(strata, axis=0), ((1, 1), (0, 0)), mode="edge")
    return jnp.sqrt(jnp.sum(differences**2, axis=0) / 2) / num
