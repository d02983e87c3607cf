"""The unmasking posterior f, evaluated only at the slots that need it.

The vocabulary head is most of a small model's cost and its logits are the largest array of all, so
no [b, l, vocabulary] array is ever made: chosen slots are gathered and worked off in chunks, the
last of them hardly larger than what is left.
"""

import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from flexmdm_jax.chips import current_platform
from flexmdm_jax.process import Process
from flexmdm_jax.types import Denoiser, Vocabulary

# Products that a CPU forms in some ten microseconds.
_SOON_FORMED = 1 << 20


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


def chunk_sizes(platform: str, head_size: int | None = None, on_cpu: int = 256) -> tuple[int, ...]:
    """Returns how many slots of a group may be worked off at once, ascending.

    On a CPU the smallest size that holds a number of slots is at most a third larger than it, or
    the first: 8, or as many as a small head works off in no time, for each size is to compile.
    Accelerators, whose matrix units would be filled up anyway, have multiples of 128, each at most
    half as large again as what it holds, but for the first.

    Args:
      platform: As current_platform() names it.
      head_size: Parameters that each slot is multiplied with; None for very many.
      on_cpu: The largest size on a CPU. Few large chunks spare it reading the head again, few sizes
        spare it compiling; docs/performance.md has both. At least 20, below which two chunks may
        hold more than a third too many slots.
    """
    if platform == "cpu":
        soon = _SOON_FORMED // head_size // 4 * 4 if head_size else 0
        # A size beside one hardly larger would spare nothing.
        if 4 * soon > 3 * on_cpu:
            return (on_cpu,)
        return _growing(max(8, soon), multiple=4, part=3, largest=on_cpu)
    return _growing(128, multiple=128, part=2, largest=1024)


def head_chunk_sizes(features: int, vocabulary: Vocabulary, platform: str = "") -> tuple[int, ...]:
    """Returns the chunk_sizes() of a loss.

    Args:
      features: Of each slot.
      vocabulary: What the head tells apart.
      platform: See chunk_sizes(); where the program is to run, unless told.
    """
    return chunk_sizes(platform or current_platform(), features * vocabulary.size)


def _growing(smallest: int, *, multiple: int, part: int, largest: int) -> tuple[int, ...]:
    """Returns multiples that exceed the fewest slots they are for by one part of these or less."""
    sizes = [smallest]
    while sizes[-1] < largest:
        fewest = sizes[-1] + 1
        size = (fewest + fewest // part) // multiple * multiple
        sizes.append(min(max(size, sizes[-1] + multiple), largest))
    return tuple(sizes)


def executed_slots(chosen: int, slots: int, sizes: tuple[int, ...]) -> int:
    """Returns how many slots of each group are worked off: full chunks, and what holds the rest.

    Args:
      chosen: Slots of the group that has most chosen ones.
      slots: Slots of a group.
      sizes: Of chunks, see map_slots.
    """
    sizes = _no_larger(sizes, slots)
    chunks, rest = divmod(chosen, sizes[-1])
    return chunks * sizes[-1] + min(n for n in (0, *sizes) if n >= rest)


def _no_larger(sizes: tuple[int, ...] | None, slots: int) -> tuple[int, ...]:
    """Returns the sizes up to the number of slots, which takes the place of larger ones."""
    sizes = sizes or chunk_sizes(current_platform())
    largest = min(sizes[-1], slots)
    return (*(n for n in sizes if n < largest), largest)


def map_slots(
    fn: Callable[[PyTree], PyTree],
    chosen: Bool[Array, "b l"],
    arrays: PyTree[Array],
    *,
    sizes: tuple[int, ...] | None = None,
    num_groups: int = 1,
) -> PyTree[Array]:
    """Returns fn's results [b, l, ...] at the chosen slots, zeros elsewhere.

    Chosen slots are moved to the front and fn runs on chunks of the largest size while these are
    full, then on one of the smallest size that holds the rest: executed_slots() counts them.

    Args:
      fn: Takes the arrays' rows for n slots, [num_groups, n, ...], and returns per-slot results. It
        is traced for every size, and a chunk that is not full is filled up with zeros.
      chosen: Slots to run fn on.
      arrays: Inputs of fn for every slot, [b, l, ...].
      sizes: Slots per group that fn may see at once, ascending; the last bounds the memory for
        logits. None takes the platform's chunk_sizes().
      num_groups: Groups of rows worked off side by side. With as many groups as devices share the
        batch, gathering stays within each device. Must divide b.
    """
    division = _Division.of(chosen, sizes, num_groups)
    chunks = jax.tree.map(division.gather, arrays)
    work = lambda chunk: (None, fn(chunk))  # noqa: E731
    _, results = _scan_chosen(work, chunks, division.num_chosen, division.sizes)
    return jax.tree.map(lambda x: division.scatter(x, chosen.shape), results)


def sum_slots(
    fn: Callable[[Float[Array, "n d"], Int[Array, "n"]], Float[Array, "n"]],
    chosen: Bool[Array, "b l"],
    weights: Float[Array, "b l"],
    hidden: Float[Array, "b l d"],
    targets: Int[Array, "b l"],
    *,
    sizes: tuple[int, ...] | None = None,
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
      sizes: See map_slots.
      num_groups: See map_slots. Each group keeps a gradient of its own until the last chunk, so
        devices need to add them up only once.
    """
    division = _Division.of(chosen, sizes, num_groups)
    weights, hidden, targets = (division.gather(x) for x in (weights, hidden, targets))
    fn, captured = _closure_converted(fn, division.sizes, hidden[0, 0], targets[0, 0])
    return _weighted_sum(
        fn, division.sizes, division.num_chosen, targets, captured, weights, hidden
    )


def _closure_converted(fn, sizes: tuple[int, ...], *chunk: Array):
    """Returns jax.closure_convert(fn, *chunk), for a chunk's first slots too: as many as sizes."""
    # What is converted takes arrays of one shape only; what fn closes over is the same for all.
    converted = {size: jax.closure_convert(fn, *(x[:size] for x in chunk)) for size in sizes}
    captured = converted[sizes[-1]][1]

    def run(hidden, targets, *captured):
        return converted[len(hidden)][0](hidden, targets, *captured)

    return run, captured


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _weighted_sum(fn, sizes, num_chosen, targets, captured, weights, hidden):
    def work(chunk):
        weights, hidden, targets = chunk
        nats = jax.vmap(lambda hidden, targets: fn(hidden, targets, *captured))(hidden, targets)
        return jnp.sum(weights * nats, axis=1), None

    total, _ = _scan_chosen(work, (weights, hidden, targets), num_chosen, sizes)
    return jnp.sum(total)


def _sum_and_gradient(fn, sizes, num_chosen, targets, captured, weights, hidden):
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

    def work(chunk):
        weights, hidden, targets = chunk
        (total, nats), (by_parameters, by_hidden) = of_groups(parameters, hidden, weights, targets)
        return (total, by_parameters), (nats, by_hidden)

    chunks = (weights, hidden, targets)
    (total, sums), (nats, by_hidden) = _scan_chosen(work, chunks, num_chosen, sizes)
    by_captured = [None] * len(arrays)
    for i, x in zip(trained, sums, strict=True):
        by_captured[i] = jnp.sum(x, axis=0).astype(arrays[i].dtype)
    return jnp.sum(total), (by_captured, nats, by_hidden)


def _scaled_gradient(fn, sizes, gradient, factor):
    by_captured, by_weights, by_hidden = jax.tree.map(
        lambda x: (factor * x).astype(x.dtype), gradient
    )
    return None, None, by_captured, by_weights, by_hidden


_weighted_sum.defvjp(_sum_and_gradient, _scaled_gradient, symbolic_zeros=True)


def _scan_chosen(work, chunks: PyTree[Array], num_chosen: Int[Array, ""], sizes: tuple[int, ...]):
    """Returns what work gives for all chunks that hold chosen slots: a sum, and zeros elsewhere.

    Args:
      work: chunk -> (what is summed up over chunks, in float32; results per slot).
      chunks: From _Division.gather.
      num_chosen: Of the group that has most of them; they come first.
      sizes: Of _Division.
    """
    summed, results = jax.eval_shape(work, jax.tree.map(lambda x: x[0], chunks))

    def first(size, chunk):
        summed, results = work(jax.tree.map(lambda x: x[:, :size], chunk))
        rest = lambda x: ((0, 0), (0, sizes[-1] - size), *((0, 0),) * (x.ndim - 2))  # noqa: E731
        return summed, jax.tree.map(lambda x: jnp.pad(x, rest(x)), results)

    def some(left, total, chunk):
        # The smallest size that holds what is left; the last if all are too small.
        branch = jnp.searchsorted(jnp.array(sizes), left)
        branches = [functools.partial(first, size) for size in sizes]
        summed, results = jax.lax.switch(branch, branches, chunk)
        return jax.tree.map(jnp.add, total, summed), results

    # One of two branches may hand a large sum on as it is; one of many would copy it.
    def none(left, total, chunk):
        return total, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), results)

    def step(total, xs):
        number, chunk = xs
        left = num_chosen - number * sizes[-1]
        return jax.lax.cond(left > 0, some, none, left, total, chunk)

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), summed)
    num_chunks = len(jax.tree.leaves(chunks)[0])
    return jax.lax.scan(step, zeros, (jnp.arange(num_chunks), chunks))


@flax.struct.dataclass
class _Division:
    """Slots of each group, chosen ones first, cut into chunks.

    Attributes:
      chosen: Of each group.
      order: Slot that stands at each place.
      sizes: Slots of a chunk that may be worked off; the last is all of them.
    """

    chosen: Bool[Array, "g s"]
    order: Int[Array, "g s"]
    sizes: tuple[int, ...] = flax.struct.field(pytree_node=False)

    @classmethod
    def of(
        cls, chosen: Bool[Array, "b l"], sizes: tuple[int, ...] | None, num_groups: int
    ) -> "_Division":
        chosen = chosen.reshape(num_groups, -1)
        order = jnp.argsort(~chosen, axis=1, stable=True)
        return cls(chosen, order, _no_larger(sizes, chosen.shape[1]))

    @property
    def chunk_size(self) -> int:
        return self.sizes[-1]

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
