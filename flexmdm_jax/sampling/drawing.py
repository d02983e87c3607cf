"""Tokens drawn from f at chosen slots."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from flexmdm_jax.chips import current_platform
from flexmdm_jax.posterior import map_slots, posterior_logits
from flexmdm_jax.process import Process
from flexmdm_jax.sampling.state import Settings
from flexmdm_jax.sampling.unmasking import CONFIDENCES, Draw, DrawFn
from flexmdm_jax.types import Denoiser, RowKeys

# Slots that a CPU draws at once; noise takes it as long per slot in small chunks as in large ones.
_ON_CPU = 8
# What a matrix unit wants.
_ON_ACCELERATORS = 128
# Below it the likeliest token is drawn all but surely, and logits may overflow when divided.
COLDEST = 1e-6


def draw_size(platform: str) -> int:
    """Returns how many slots of a group are drawn at once: always as many.

    A product's rounding may depend on its shape, so a chunk that fitted what is left would let a
    row's tokens depend on how many others of its batch unmask.

    Args:
      platform: As current_platform() names it.
    """
    return _ON_CPU if platform == "cpu" else _ON_ACCELERATORS


def drawing(
    keys: RowKeys,
    denoiser: Denoiser,
    hidden: Float[Array, "b l d"],
    settings: Settings,
    process: Process,
    *,
    confidence: str | None,
    probability: bool,
    restricts: bool,
    greedy: Bool[Array, ""],
    num_groups: int,
) -> DrawFn:
    """Returns a function that draws tokens from f at given slots; each slot has its own noise.

    Args:
      keys: One key per row.
      denoiser: The network.
      hidden: Its features.
      settings: Temperatures and what restricts f.
      process: What the network was trained on.
      confidence: One of CONFIDENCES to report, or None.
      probability: Whether to report that of the drawn token.
      restricts: Whether any row has a top_k or top_p.
      greedy: Whether all rows take the likeliest token.
      num_groups: See map_slots.
    """
    slots = jnp.arange(hidden.shape[1])
    slot_keys = jax.vmap(lambda key: jax.vmap(lambda s: jax.random.fold_in(key, s))(slots))(keys)
    surety = CONFIDENCES.get(confidence)
    sizes = (draw_size(current_platform()),)
    spread = lambda x: jnp.broadcast_to(x[:, None], hidden.shape[:2])  # noqa: E731
    temperatures = spread(settings.temperature)
    restrictions = (spread(settings.top_k), spread(settings.top_p)) if restricts else ()

    def draw_chunk(chunk):
        hidden, key_data, temperature, restrictions = chunk
        logits = posterior_logits(denoiser, hidden, process)
        slot_keys = jax.random.wrap_key_data(key_data, impl=jax.random.key_impl(keys))
        log_f = jax.nn.log_softmax(logits) if surety or probability else None
        sure = surety(log_f) if surety else None
        if restrictions:
            logits = _restrict(logits, _warm(temperature), *restrictions)
        tokens = _sample(slot_keys, logits, temperature, greedy)
        if not probability:
            return tokens, sure, None
        return tokens, sure, jnp.exp(jnp.take_along_axis(log_f, tokens[..., None], axis=-1)[..., 0])

    def draw(chosen: Bool[Array, "b l"]) -> Draw:
        arrays = (hidden, jax.random.key_data(slot_keys), temperatures, restrictions)
        return Draw(*map_slots(draw_chunk, chosen, arrays, sizes=sizes, num_groups=num_groups))

    return draw


def _warm(temperature: Float[Array, "*slots"]) -> Float[Array, "*slots"]:
    """Returns the temperatures, and 1 for those that take the likeliest token."""
    return jnp.where(temperature < COLDEST, 1.0, temperature)


def _sample(
    keys: Key[Array, "*slots"],
    logits: Float[Array, "*slots v"],
    temperature: Float[Array, "*slots"],
    greedy: Bool[Array, ""],
) -> Int[Array, "*slots"]:
    """Returns tokens drawn exactly from softmax(logits / temperature).

    Args:
      keys: One per slot.
      logits: Of each slot.
      temperature: Of each slot; next to nothing takes the likeliest token.
      greedy: Whether all slots take the likeliest.
    """
    # The default mode draws 23-bit noise and loses tokens with probability below about 1e-7.
    draw = lambda key, logits: jax.random.categorical(key, logits, mode="high")  # noqa: E731
    for _ in range(keys.ndim):
        draw = jax.vmap(draw)
    warm = logits / _warm(temperature)[..., None]
    likeliest = jnp.argmax(logits, axis=-1)
    # Noise is most of what a draw costs.
    drawn = jax.lax.cond(greedy, lambda: likeliest, lambda: draw(keys, warm))
    return jnp.where(temperature < COLDEST, likeliest, drawn)


def _restrict(
    logits: Float[Array, "*slots v"],
    temperature: Float[Array, "*slots"],
    top_k: Int[Array, "*slots"],
    top_p: Float[Array, "*slots"],
) -> Float[Array, "*slots v"]:
    """Returns logits with -inf outside the top_k and, of those at a temperature, the top_p."""
    count = lambda above: jnp.sum(above, axis=-1, dtype=jnp.int32)  # noqa: E731
    wanted = jnp.where(top_k > 0, top_k, logits.shape[-1])
    logits = _keep_while(logits, lambda above: count(above) < wanted)
    probs = jax.nn.softmax(logits / temperature[..., None], axis=-1)
    mass = lambda above: jnp.sum(jnp.where(above, probs, 0.0), axis=-1)  # noqa: E731
    # A token stays while the probability of those above it is still below top_p.
    return _keep_while(logits, lambda above: (mass(above) < top_p) | (top_p >= 1))


def _keep_while(logits: Float[Array, "*slots v"], condition) -> Float[Array, "*slots v"]:
    """Returns logits with -inf at tokens unless a condition holds of the tokens above them.

    The condition must hold of no tokens, and never again once it has failed. The smallest token
    that stays is found by halving, over the numbers that float32 has: a sort of the vocabulary
    would take about as long to run and far longer to compile, for each size of a chunk.
    """
    order = _ordered(logits)

    def halve(_, bounds):
        low, high = bounds
        # Of two integers of any sign, without overflow.
        middle = (low & high) + ((low ^ high) >> 1)
        holds = condition(order > middle[..., None])
        return jnp.where(holds, low, middle), jnp.where(holds, middle, high)

    # It holds of what is above high and fails, or is not looked at, above low.
    high = jnp.max(order, axis=-1)
    low = jnp.full_like(high, jnp.iinfo(jnp.int32).min)
    low, high = jax.lax.fori_loop(0, 32, halve, (low, high))
    return jnp.where(order < high[..., None], -jnp.inf, logits)


def _ordered(x: Float[Array, "*slots v"]) -> Int[Array, "*slots v"]:
    """Returns the bits of float32 numbers as integers of the same order."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.iinfo(jnp.int32).max, bits)
