"""map_slots and sum_slots compute what direct application would, and nothing that is not needed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import VOCABULARY

from flexmdm_jax.posterior import map_slots, posterior_logits, sum_slots
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


@pytest.mark.parametrize("num_chosen", [0, 1, 5, 10, 11, 36])
def test_fn_runs_only_as_often_as_there_are_chosen_slots(num_chosen):
    calls = []

    def fn(x):
        jax.debug.callback(lambda: calls.append(1))
        return x[..., 0]

    chosen = (jnp.arange(ROWS * LENGTH) < num_chosen).reshape(ROWS, LENGTH)
    jax.block_until_ready(jax.jit(lambda x: map_slots(fn, chosen, x, sizes=(5,)))(X))
    jax.effects_barrier()
    assert len(calls) == -(-num_chosen // 5)


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


def test_sum_slots_computes_logits_once():
    """fn and its derivative run once a chunk, where recomputation would run fn twice."""
    calls = []

    def run(head):
        def fn(x, ids):
            jax.debug.callback(lambda _: calls.append(1), x)
            return own(head)(x, ids)

        return sum_slots(fn, jnp.asarray(CHOSEN["all"]), WEIGHTS, X, IDS, sizes=(6,))

    jax.block_until_ready(jax.jit(jax.grad(run))(HEAD))
    jax.effects_barrier()
    assert len(calls) == ROWS * LENGTH // 6


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
