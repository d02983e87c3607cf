"""The unmasking posterior f, evaluated only at the slots that need it.

The vocabulary head is most of a small model's cost and its logits are the largest array of all, so
no [b, l, vocabulary] array is ever made: chosen slots are gathered and worked off in chunks.
"""

import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from flexmdm_jax.process import Process
from flexmdm_jax.types import Denoiser


def posterior_logits(
    denoiser: Denoiser, hidden: Float[Array, "*slots d"], process: Process
) -> Float[Array, "*slots v"]:
    """Returns float32 logits of f, with -inf on tokens that no masked slot can hide.

    That is MASK, and END too when lengths are learned by insertion (it is never masked then); MDM
    predicts its END padding like any token.
    """
    logits = denoiser.decode(hidden).astype(jnp.float32)
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    impossible = ids == process.vocabulary.mask
    if process.inserts:
        impossible |= ids == process.vocabulary.end
    return jnp.where(impossible, -jnp.inf, logits)


def map_slots(
    fn: Callable[[PyTree], PyTree],
    chosen: Bool[Array, "b l"],
    arrays: PyTree[Array],
    *,
    chunk_size: int = 1024,
    num_groups: int = 1,
) -> PyTree[Array]:
    """Returns fn's results [b, l, ...] at the chosen slots, zeros elsewhere.

    Chosen slots are moved to the front and fn runs on chunk_size of them at a time, only as often
    as there are chosen slots left.

    Args:
      fn: Takes the arrays' rows for n slots, [num_groups, n, ...], and returns per-slot results;
        a last chunk that is not full is filled up with zeros.
      chosen: Slots to run fn on.
      arrays: Inputs of fn for every slot, [b, l, ...].
      chunk_size: Slots per group that fn sees at once; bounds the memory for logits.
      num_groups: Groups of rows worked off side by side. With as many groups as devices share the
        batch, gathering stays within each device. Must divide b.
    """
    division = _Division.of(chosen, chunk_size, num_groups)
    chunks = jax.tree.map(division.gather, arrays)
    _, results = _scan_chosen(lambda _, chunk: (None, fn(chunk)), None, chunks, division.num_chosen)
    return jax.tree.map(lambda x: division.scatter(x, chosen.shape), results)


def sum_slots(
    fn: Callable[[Float[Array, "n d"], Int[Array, "n"]], Float[Array, "n"]],
    chosen: Bool[Array, "b l"],
    weights: Float[Array, "b l"],
    hidden: Float[Array, "b l d"],
    targets: Int[Array, "b l"],
    *,
    chunk_size: int = 1024,
    num_groups: int = 1,
) -> Float[Array, ""]:
    """Returns Σ weights · fn(hidden, targets) over the chosen slots, worked off like map_slots.

    Its gradient, also to what fn closes over, is computed along with it: a sum's gradient needs to
    know nothing of what becomes of the sum but one factor, so each chunk's logits are made once and
    never kept (as in the fused linear cross-entropy of Hsu et al. 2024, Liger Kernel).

    Args:
      fn: Takes n slots; differentiable in hidden.
      chosen: Slots to sum over.
      weights: Of each slot.
      hidden: Features of each slot.
      targets: Token ids of each slot.
      chunk_size: See map_slots.
      num_groups: See map_slots. Each group keeps a gradient of its own until the last chunk, so
        devices need to add them up only once.
    """
    division = _Division.of(chosen, chunk_size, num_groups)
    weights, hidden, targets = (division.gather(x) for x in (weights, hidden, targets))
    fn, captured = jax.closure_convert(fn, hidden[0, 0], targets[0, 0])
    return _weighted_sum(fn, division.num_chosen, targets, captured, weights, hidden)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted_sum(fn, num_chosen, targets, captured, weights, hidden):
    def work(total, chunk):
        weights, hidden, targets = chunk
        nats = jax.vmap(lambda hidden, targets: fn(hidden, targets, *captured))(hidden, targets)
        return total + jnp.sum(weights * nats, axis=1), None

    total, _ = _scan_chosen(
        work, jnp.zeros(weights.shape[1]), (weights, hidden, targets), num_chosen
    )
    return jnp.sum(total)


def _sum_and_gradient(fn, num_chosen, targets, captured, weights, hidden):
    """The forward pass; only captured arrays that are differentiated get a gradient."""
    num_chosen, targets, weights, hidden = (x.value for x in (num_chosen, targets, weights, hidden))
    trained = [i for i, x in enumerate(captured) if x.perturbed]
    arrays = [x.value for x in captured]

    def of_group(parameters, hidden, weights, targets):
        everything = list(arrays)
        for i, x in zip(trained, parameters, strict=True):
            everything[i] = x
        nats = fn(hidden, targets, *everything)
        return jnp.vdot(weights, nats), nats

    gradient = jax.value_and_grad(of_group, argnums=(0, 1), has_aux=True)
    of_groups = jax.vmap(gradient, in_axes=(None, 0, 0, 0))
    parameters = [arrays[i] for i in trained]

    def work(carry, chunk):
        weights, hidden, targets = chunk
        (total, nats), (by_parameters, by_hidden) = of_groups(parameters, hidden, weights, targets)
        return jax.tree.map(jnp.add, carry, (total, by_parameters)), (nats, by_hidden)

    groups = weights.shape[1]
    zeros = [jnp.zeros((groups, *x.shape), jnp.float32) for x in parameters]
    chunks = (weights, hidden, targets)
    (total, sums), (nats, by_hidden) = _scan_chosen(
        work, (jnp.zeros(groups), zeros), chunks, num_chosen
    )
    by_captured = [None] * len(arrays)
    for i, x in zip(trained, sums, strict=True):
        by_captured[i] = jnp.sum(x, axis=0).astype(arrays[i].dtype)
    return jnp.sum(total), (by_captured, nats, by_hidden)


def _scaled_gradient(fn, gradient, factor):
    by_captured, by_weights, by_hidden = jax.tree.map(
        lambda x: (factor * x).astype(x.dtype), gradient
    )
    return None, None, by_captured, by_weights, by_hidden


_weighted_sum.defvjp(_sum_and_gradient, _scaled_gradient, symbolic_zeros=True)


def _scan_chosen(work, carry, chunks: PyTree[Array], num_chosen: Int[Array, ""]):
    """Returns lax.scan(work, carry, chunks), which passes over chunks without chosen slots.

    Args:
      work: (carry, chunk) -> (carry, results).
      carry: As work gets it first.
      chunks: From _Division.gather.
      num_chosen: Of the group that has most of them; they come first.
    """
    num_chunks, _, chunk_size = jax.tree.leaves(chunks)[0].shape[:3]

    def step(carry, xs):
        number, chunk = xs
        _, results = jax.eval_shape(work, carry, chunk)
        nothing = lambda carry, _: (  # noqa: E731
            carry,
            jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), results),
        )
        return jax.lax.cond(number * chunk_size < num_chosen, work, nothing, carry, chunk)

    return jax.lax.scan(step, carry, (jnp.arange(num_chunks), chunks))


@flax.struct.dataclass
class _Division:
    """Slots of each group, chosen ones first, cut into chunks.

    Attributes:
      chosen: Of each group.
      order: Slot that stands at each place.
      chunk_size: Slots to a chunk.
    """

    chosen: Bool[Array, "g s"]
    order: Int[Array, "g s"]
    chunk_size: int = flax.struct.field(pytree_node=False)

    @classmethod
    def of(cls, chosen: Bool[Array, "b l"], chunk_size: int, num_groups: int) -> "_Division":
        chosen = chosen.reshape(num_groups, -1)
        order = jnp.argsort(~chosen, axis=1, stable=True)
        return cls(chosen, order, min(chunk_size, chosen.shape[1]))

    @property
    def num_chunks(self) -> int:
        return -(-self.chosen.shape[1] // self.chunk_size)

    @property
    def num_chosen(self) -> Int[Array, ""]:
        """Returns the largest number of chosen slots of a group."""
        return jnp.max(jnp.sum(self.chosen, axis=1))

    def gather(self, x: Shaped[Array, "b l ..."]) -> Shaped[Array, "chunks g n ..."]:
        groups, slots = self.chosen.shape
        places = self.num_chunks * self.chunk_size
        rest = (1,) * (x.ndim - 2)
        source = jnp.pad(self.order, ((0, 0), (0, places - slots)))
        wanted = jnp.arange(places)[None, :] < jnp.sum(self.chosen, axis=1, keepdims=True)
        x = x.reshape(groups, slots, *x.shape[2:])
        x = jnp.take_along_axis(x, source.reshape(groups, places, *rest), axis=1)
        # Chunks are filled up with zeros: what stands at unchosen slots must not reach fn.
        x = jnp.where(wanted.reshape(groups, places, *rest), x, jnp.zeros_like(x))
        x = x.reshape(groups, self.num_chunks, self.chunk_size, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0)

    def scatter(self, x: Shaped[Array, "chunks g n ..."], shape) -> Shaped[Array, "b l ..."]:
        groups, slots = self.chosen.shape
        x = jnp.moveaxis(x, 0, 1).reshape(groups, -1, *x.shape[3:])[:, :slots]
        x = jnp.zeros_like(x).at[jnp.arange(groups)[:, None], self.order].set(x)
        mask = self.chosen.reshape(groups, slots, *(1,) * (x.ndim - 2))
        return jnp.where(mask, x, 0).reshape(*shape, *x.shape[2:])
