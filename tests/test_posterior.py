"""map_slots and sum_slots compute what direct application would, and nothing that is not needed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.tpu_compiler import tpu_mesh
from flexmdm_jax.compilation.hlo import parse_program
from flexmdm_jax.conformance import VOCABULARY
from flexmdm_jax.posterior import (
    chunk_sizes,
    executed_slots,
    map_slots,
    posterior_logits,
    sum_slots,
)
from flexmdm_jax.process import Process
from flexmdm_jax.types import Denoiser, per_slot

ROWS, LENGTH = 4, 9
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(ROWS, LENGTH, 3)), jnp.float32)
IDS = jnp.asarray(RNG.integers(0, 5, size=(ROWS, LENGTH)))
HEAD = jnp.asarray(RNG.normal(size=(3, 5)), jnp.float32)
CHOSEN = {
    "some": RNG.random((ROWS, LENGTH)) < 0.4,
    "all": np.ones((ROWS, LENGTH), bool),
    "none": np.zeros((ROWS, LENGTH), bool),
    "one row": np.arange(ROWS)[:, None] + np.zeros((1, LENGTH)) == 2,
    "last slot": np.arange(ROWS * LENGTH).reshape(ROWS, LENGTH) == ROWS * LENGTH - 1,
}


def scores(head, x, ids):
    """Per slot: one number and one vector."""
    logits = jnp.einsum("...d,dv->...v", x, head)
    log_f = jax.nn.log_softmax(logits)
    return {
        "own": jnp.take_along_axis(log_f, ids[..., None], axis=-1)[..., 0],
        "features": jnp.sin(x) * 2,
    }


def mapped(head, x, chosen, **kwargs):
    return map_slots(lambda chunk: scores(head, *chunk), chosen, (x, IDS), **kwargs)


def direct(head, x, chosen):
    out = scores(head, x, IDS)
    return {
        "own": jnp.where(chosen, out["own"], 0),
        "features": jnp.where(chosen[:, :, None], out["features"], 0),
    }


def weighted(out):
    return jnp.vdot(out["own"], jnp.cos(jnp.arange(36.0)).reshape(ROWS, LENGTH)) + jnp.sum(
        out["features"] ** 2
    )


@pytest.mark.parametrize(
    ("sizes", "num_groups"), [(None, 1), ((2, 5), 1), ((1,), 2), ((1, 3, 4), 4)]
)
@pytest.mark.parametrize("which", CHOSEN)
def test_map_slots_equals_direct_application(which, sizes, num_groups):
    chosen = jnp.asarray(CHOSEN[which])

    def evaluate(fn):
        """Returns the results, and the gradients of a function of them."""

        @jax.jit
        def run(head, x):
            loss = lambda head, x: weighted(fn(head, x, chosen))  # noqa: E731
            return fn(head, x, chosen), jax.grad(loss, argnums=(0, 1))(head, x)

        return run(HEAD, X)

    got = evaluate(functools.partial(mapped, sizes=sizes, num_groups=num_groups))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, got, evaluate(direct))


@pytest.mark.parametrize("slots", [3, 8, 100, 300, 4096])
@pytest.mark.parametrize("largest", [20, 28, 256])
def test_a_cpu_works_off_at_most_a_third_more_than_is_chosen(slots, largest):
    sizes = chunk_sizes("cpu", on_cpu=largest)
    assert max(sizes) == largest
    for chosen in range(slots + 1):
        executed = executed_slots(chosen, slots, sizes)
        assert chosen <= executed <= max(8, 4 / 3 * chosen)
        assert chosen or not executed


@pytest.mark.parametrize("features", [16, 64, 256])
@pytest.mark.parametrize("vocabulary", [20, 400, 50_259])
def test_a_small_head_has_few_sizes_and_forms_few_products_too_many(features, vocabulary):
    """A size is to compile, so it has to spare a million products, where it spares no third."""
    few = chunk_sizes("cpu", features * vocabulary)
    assert list(few) == sorted(set(few))
    assert few[-1] == 256
    assert len(few) <= len(chunk_sizes("cpu"))
    for chosen in range(1025):
        surplus = executed_slots(chosen, 1024, few) - chosen
        assert surplus <= max(8, chosen / 3, 2**20 / (features * vocabulary) / 0.75)
    assert chunk_sizes("cpu", 16 * 20) == (256,)
    assert chunk_sizes("cpu", 256 * 50_259) == chunk_sizes("cpu")
    assert chunk_sizes("tpu", features * vocabulary) == chunk_sizes("tpu")


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_accelerators_work_off_whole_tiles_and_at_most_half_more(platform):
    sizes = chunk_sizes(platform)
    for chosen in range(4097):
        executed = executed_slots(chosen, 4096, sizes)
        assert executed % 128 == 0
        assert chosen <= executed <= max(128 * min(chosen, 1), 256 * (chosen > 128), 1.5 * chosen)
    assert executed_slots(5, 50, sizes) == 50, "a group may have fewer slots than a chunk"


def test_sizes_are_those_of_the_platform_that_is_compiled_for():
    """Which the ambient mesh says, where no such device is there."""

    def seen():
        sizes = set()
        fn = lambda x: sizes.add(x.shape[1]) or x  # noqa: E731
        slots = [jax.ShapeDtypeStruct((2, 4096), dtype) for dtype in (bool, float)]
        jax.eval_shape(lambda chosen, x: map_slots(fn, chosen, x), *slots)
        return sizes

    assert seen() == set(chunk_sizes("cpu"))
    with jax.set_mesh(tpu_mesh("v5e")):
        assert seen() == set(chunk_sizes("tpu"))


def _mapping(fn, chosen, num_groups):
    return map_slots(fn, chosen, jnp.ones((*chosen.shape, 3)), num_groups=num_groups)


def _summing(fn, chosen, num_groups):
    """Value and gradients, for which fn runs no more than once."""
    fn = functools.partial(lambda fn, x, ids: fn(x), fn)
    loss = lambda x: sum_slots(  # noqa: E731
        fn, chosen, jnp.ones(chosen.shape), x, jnp.zeros(chosen.shape, int), num_groups=num_groups
    )
    return jax.value_and_grad(loss)(jnp.ones((*chosen.shape, 3)))


@pytest.mark.parametrize(("run", "num_groups"), [(_mapping, 1), (_mapping, 2), (_summing, 1)])
def test_fn_sees_as_many_slots_as_executed_slots_says(run, num_groups):
    slots, worked_off = 600 // num_groups, []

    def fn(x):
        jax.debug.callback(lambda _, n=x.shape[-2]: worked_off.append(n), x)
        return jnp.sum(x, axis=-1)

    program = jax.jit(lambda chosen: run(fn, chosen, num_groups))
    for most in (*range(70), 110, 111, 200, 256, 257, 264, 265, slots - 1, slots):
        if most > slots:
            continue
        # The group that has most decides; the other has fewer.
        chosen = np.arange(slots) < np.array([most, most // 3])[:num_groups, None]
        worked_off.clear()
        jax.block_until_ready(program(jnp.asarray(chosen)))
        jax.effects_barrier()
        assert sum(worked_off) == executed_slots(most, slots, chunk_sizes("cpu"))


@pytest.mark.parametrize("num_groups", [1, 2])
@pytest.mark.parametrize("which", ["some", "one row", "last slot", "none"])
def test_unchosen_slots_never_reach_fn(which, num_groups):
    """NaN at unchosen slots changes neither values nor gradients."""
    chosen = jnp.asarray(CHOSEN[which])
    poisoned = jnp.where(chosen[:, :, None], X, jnp.nan)
    run = jax.jit(
        jax.value_and_grad(
            lambda head, x: weighted(mapped(head, x, chosen, sizes=(3, 7), num_groups=num_groups)),
            argnums=(0, 1),
        )
    )
    clean, dirty = run(HEAD, X), run(HEAD, poisoned)
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    assert not np.any(dirty[1][1][~chosen])


WEIGHTS = jnp.asarray(RNG.normal(size=(ROWS, LENGTH)), jnp.float32)


def own(head):
    return lambda x, ids: scores(head, x, ids)["own"]


def summed(head, weights, x, chosen, **kwargs):
    return sum_slots(own(head), chosen, weights, x, IDS, **kwargs)


@pytest.mark.parametrize(
    ("sizes", "num_groups"), [(None, 1), ((2, 5), 1), ((1,), 2), ((1, 3, 4), 4)]
)
@pytest.mark.parametrize("which", CHOSEN)
def test_sum_slots_equals_direct_application(which, sizes, num_groups):
    """Value and gradients with respect to the head, the weights and the features."""
    chosen = jnp.asarray(CHOSEN[which])
    divided = functools.partial(summed, chosen=chosen, sizes=sizes, num_groups=num_groups)

    def at_once(head, weights, x):
        return jnp.sum(jnp.where(chosen, weights * own(head)(x, IDS), 0))

    def evaluate(fn):
        run = jax.value_and_grad(lambda *args: 3 * fn(*args) ** 2, argnums=(0, 1, 2))
        return jax.jit(fn)(HEAD, WEIGHTS, X), jax.jit(run)(HEAD, WEIGHTS, X)

    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, evaluate(divided), evaluate(at_once))


def test_a_sum_passes_chunks_without_chosen_slots_uncopied():
    """A head's gradient is the largest array of all; XLA copies what one of many branches passes.

    Copies inside a fusion are none: what it reads once, in another order.
    """
    chosen = jnp.asarray(CHOSEN["some"])
    by_head = jax.jit(jax.grad(lambda head: summed(head, WEIGHTS, X, chosen, sizes=(2, 3, 5))))
    program = parse_program(by_head.lower(HEAD).compile().as_text())
    copies = [
        x.name
        for name, computation in program.computations.items()
        for x in computation.instructions.values()
        if x.opcode == "copy" and x.shapes[0].dims == (1, *HEAD.shape) and "fused" not in name
    ]
    assert not copies
    conditionals = [
        x
        for computation in program.computations.values()
        for x in computation.instructions.values()
        if x.opcode == "conditional"
    ]
    assert len(conditionals) == 2


def test_what_is_not_trained_gets_no_gradient():
    """A frozen head costs no array of its size."""
    chosen = jnp.asarray(CHOSEN["all"])
    by_features = jax.grad(lambda x, head: summed(head, WEIGHTS, x, chosen, num_groups=2))
    by_head = jax.grad(lambda head, x: summed(head, WEIGHTS, x, chosen, num_groups=2))
    sums = f"f32[2,{HEAD.shape[0]},{HEAD.shape[1]}]"
    assert sums in str(jax.make_jaxpr(by_head)(HEAD, X))
    assert sums not in str(jax.make_jaxpr(by_features)(X, HEAD))


@pytest.mark.parametrize("num_groups", [1, 2])
def test_unchosen_slots_have_no_part_in_a_sum(num_groups):
    chosen = jnp.asarray(CHOSEN["some"])
    poisoned = jnp.where(chosen[:, :, None], X, jnp.nan)
    run = jax.jit(
        jax.value_and_grad(
            lambda head, x: summed(head, WEIGHTS, x, chosen, sizes=(3, 7), num_groups=num_groups),
            argnums=(0, 1),
        )
    )
    clean, dirty = run(HEAD, X), run(HEAD, poisoned)
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    assert not np.any(dirty[1][1][~chosen])


@pytest.mark.parametrize("process", [Process(VOCABULARY), Process.mdm(VOCABULARY)])
def test_logits_rule_out_what_no_mask_can_hide(process):
    denoiser = Denoiser(encode=lambda *_: None, decode=lambda hidden: hidden.astype(jnp.bfloat16))
    hidden = jnp.asarray(RNG.normal(size=(2, 3, VOCABULARY.size)), jnp.float32)
    logits = posterior_logits(denoiser, hidden, process)
    impossible = {VOCABULARY.mask} | ({VOCABULARY.end} if process.inserts else set())
    assert logits.dtype == jnp.float32
    for v in range(VOCABULARY.size):
        if v in impossible:
            assert (logits[..., v] == -jnp.inf).all()
        else:
            np.testing.assert_array_equal(
                logits[..., v], hidden[..., v].astype(jnp.bfloat16).astype(jnp.float32)
            )


@pytest.mark.parametrize("rest", [(), (3,), (2, 2)])
def test_per_slot_looks_up_the_segment(rest):
    values = RNG.normal(size=(2, 3, *rest))
    segment_ids = np.array([[1, 1, 2, 3, 0], [2, 1, 3, 0, 0]])
    got = per_slot(jnp.asarray(values, jnp.float32), jnp.asarray(segment_ids))
    for b, i in np.ndindex(2, 5):
        np.testing.assert_allclose(got[b, i], values[b, max(segment_ids[b, i] - 1, 0)], rtol=1e-6)
    shared = per_slot(jnp.asarray(values[:, :1], jnp.float32), jnp.asarray(segment_ids))
    for b, i in np.ndindex(2, 5):
        np.testing.assert_allclose(shared[b, i], values[b, 0], rtol=1e-6)
