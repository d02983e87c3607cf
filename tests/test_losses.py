"""The loss is the paper's sum over slots, its minimiser is the posterior, the bound is tight."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from effort import either

from flexmdm_jax.conformance import P1, VOCABULARY, flexmdm_oracle, mdm_oracle
from flexmdm_jax.interpolant import Times, corrupt, stratified_times
from flexmdm_jax.losses import estimated_nll_bound, nll_bound, training_loss
from flexmdm_jax.process import Process
from flexmdm_jax.schedules import Cosine, Geometric, Immediate, Linear, Polynomial, Sine
from flexmdm_jax.types import Batch, Denoiser, Encoding

# As many tell a bound that is a fiftieth off from one that is not.
NUM_ROWS = either(5_000, 20_000)
MANY_ROWS = 20_000
LENGTH = P1.max_length + 1
V = VOCABULARY


LINEAR = Process(V)


def bound(denoiser, batch, process=LINEAR, num_times=32):
    run = jax.jit(
        functools.partial(nll_bound, denoiser=denoiser, process=process, num_times=num_times)
    )
    keys = jax.random.split(jax.random.key(1), len(batch.index))
    return np.asarray(run(keys, batch=batch), dtype=np.float64)


def filled(batch):
    """Returns rows as MDM has them: padding is END, a token like any other."""
    return batch.replace(
        segment_ids=jnp.ones_like(batch.segment_ids), fixed=jnp.zeros_like(batch.fixed)
    )


def drawn_rows(num=NUM_ROWS):
    choice = np.random.default_rng(0).choice(len(P1.probs), size=num, p=P1.probs)
    return choice, P1.rows(choice, LENGTH)


PAIRS = [
    (Linear(), Linear()),
    (Sine(), Polynomial(2.0)),
    (Polynomial(2.0), Sine()),
    (Geometric(), Cosine()),
    (Immediate(), Linear()),
    (Immediate(), Geometric()),
]


@pytest.mark.parametrize(("insertion", "unmasking"), PAIRS)
def test_bound_of_the_exact_posterior_is_the_entropy(insertion, unmasking):
    process = Process(V, insertion, unmasking)
    denoiser = flexmdm_oracle(P1) if process.inserts else mdm_oracle(P1, LENGTH)
    _, batch = drawn_rows()
    nats = bound(denoiser, batch if process.inserts else filled(batch), process, num_times=64)
    error = nats.std() / NUM_ROWS**0.5
    print(f"{nats.mean():.4f} ± {error:.4f} nats, entropy {P1.entropy():.4f}")
    assert error < 0.03
    assert abs(nats.mean() - P1.entropy()) < 3 * error


def test_bound_of_the_exact_posterior_is_tight_for_each_sequence():
    """The bound holds for each sequence, so where its mean is tight, each sequence's is."""
    choice, batch = drawn_rows()
    nats = bound(flexmdm_oracle(P1), batch, num_times=64)
    for i, p in enumerate(P1.probs):
        own = nats[choice == i]
        assert abs(own.mean() + np.log(p)) < 4 * own.std() / len(own) ** 0.5


def blunt(denoiser, *, temperature=1.0, gap_factor=1.0):
    """Returns a denoiser that is off by known amounts."""

    def encode(*args):
        exact = denoiser.encode(*args)
        return exact.replace(gaps=exact.gaps * gap_factor)

    def decode(hidden):
        # Impossible tokens become merely unlikely.
        return jnp.maximum(denoiser.decode(hidden) / temperature, -6.0)

    return Denoiser(encode=encode, decode=decode)


@pytest.mark.parametrize(
    "wrong", [{"temperature": 3.0}, {"temperature": 0.4}, {"gap_factor": 2.0}, {"gap_factor": 0.5}]
)
def test_bound_of_a_wrong_denoiser_lies_above_the_entropy(wrong):
    _, batch = drawn_rows()
    nats = bound(blunt(flexmdm_oracle(P1), **wrong), batch)
    assert nats.mean() > P1.entropy() + 5 * nats.std() / NUM_ROWS**0.5


def test_bound_of_another_law_is_at_least_the_cross_entropy():
    """The exact denoiser of another law is a model whose likelihoods are known."""
    other = type(P1)(P1.sequences, P1.probs[1:] + P1.probs[:1])
    _, batch = drawn_rows()
    nats = bound(flexmdm_oracle(other), batch)
    cross_entropy = -float(np.dot(P1.probs, np.log(other.probs)))
    assert cross_entropy > P1.entropy() + 0.1
    assert nats.mean() > cross_entropy - 3 * nats.std() / NUM_ROWS**0.5


def test_fixed_tokens_cost_nothing():
    law = P1.given(prefix=(0,))
    choice = np.random.default_rng(0).choice(len(law.probs), size=NUM_ROWS, p=law.probs)
    batch = law.rows(choice, LENGTH)
    batch = batch.replace(fixed=batch.fixed.at[:, 0].set(True))
    nats = bound(flexmdm_oracle(law, num_prefix=1), batch)
    assert abs(nats.mean() - law.entropy()) < 3 * nats.std() / NUM_ROWS**0.5


def prompted_rows(law, num_prefix, num_suffix):
    """Returns rows of a law whose sequences begin and end alike, as a sampler takes them.

    The only open gap is the one before the first token of the suffix, or before END if there is
    none.
    """
    choice = np.random.default_rng(0).choice(len(law.probs), size=NUM_ROWS, p=law.probs)
    batch = law.rows(choice, LENGTH)
    slots = jnp.arange(LENGTH)[None, :]
    end = jnp.sum(batch.segment_ids, axis=1, keepdims=True) - 1
    in_suffix = (slots >= end - num_suffix) & (slots <= end)
    closed = (slots < num_prefix) | (in_suffix & (slots > end - num_suffix))
    return batch.replace(fixed=(slots < num_prefix) | in_suffix, closed=closed)


def nonsense_where_closed(denoiser, num_prefix, num_suffix):
    """Returns the denoiser with any gaps inside the prompt, as nobody has trained them."""

    def encode(tokens, segment_ids, alpha):
        exact = denoiser.encode(tokens, segment_ids, alpha)
        slots = jnp.arange(tokens.shape[1])[None, :]
        end = jnp.sum(segment_ids, axis=1, keepdims=True) - 1
        inside = (slots < num_prefix) | ((slots > end - num_suffix) & (slots <= end))
        return exact.replace(gaps=jnp.where(inside, 0.3 + 0.1 * slots + alpha, exact.gaps))

    return dataclasses.replace(denoiser, encode=encode)


@pytest.mark.parametrize(("prefix", "suffix"), [((0, 2), ()), ((0,), (0,))])
def test_bound_given_a_prompt_is_the_conditional_entropy(prefix, suffix):
    """Whatever is said of the gaps that are closed; charged for them, the bound lies above it."""
    law = P1.given(prefix, suffix)
    sizes = (len(prefix), len(suffix))
    batch = prompted_rows(law, *sizes)
    denoiser = nonsense_where_closed(flexmdm_oracle(law, *sizes), *sizes)
    # The same rows again, a few of them, with all their gaps open.
    few = jax.tree.map(lambda x: x[:100], batch)
    few = few.replace(closed=jnp.zeros_like(few.closed))
    nats = bound(denoiser, jax.tree.map(lambda *x: jnp.concatenate(x), batch, few))
    nats, charged = nats[:NUM_ROWS], nats[NUM_ROWS:]
    error = nats.std() / NUM_ROWS**0.5
    print(f"{nats.mean():.4f} ± {error:.4f} nats, entropy {law.entropy():.4f}")
    assert error < 0.03
    assert abs(nats.mean() - law.entropy()) < 3 * error
    assert charged.mean() > law.entropy() + 1


def test_only_fixed_tokens_close_gaps_and_nothing_may_be_missing_there():
    batch = P1.rows(np.full(4, 7), LENGTH)
    assert batch.tokens[0].tolist() == [0, 2, 0, V.end, V.end]
    # No gap is closed, one before a token that is not fixed, that of END, and that of padding.
    closed = np.zeros((4, LENGTH), bool)
    closed[[1, 2, 3], [1, 3, 4]] = True
    told, unsaid = (bound(flexmdm_oracle(P1), x) for x in (batch.replace(closed=closed), batch))
    # The token before END is missing at first, where it could then never appear.
    np.testing.assert_array_equal(told, np.where(np.arange(4) == 2, np.inf, unsaid))


def estimated_bound(batch, num_times):
    denoiser, keys = flexmdm_oracle(P1), jax.random.split(jax.random.key(1), len(batch.index))
    run = functools.partial(estimated_nll_bound, denoiser=denoiser, process=LINEAR)
    return jax.jit(functools.partial(run, num_times=num_times))(keys, batch=batch)


@pytest.mark.parametrize(("num_times", "at_most"), [(3, 1.4), (32, 1.1)])
def test_the_stated_error_is_the_spread_of_repeated_estimates(num_times, at_most):
    """It takes for noise what neighbouring times differ by, too, so it is a little larger."""
    found = estimated_bound(P1.rows(np.full(NUM_ROWS, 10), LENGTH), num_times)
    stated = float(jnp.sqrt(jnp.mean(found.errors**2)))
    spread = float(jnp.std(found.nats))
    print(f"{num_times} times: stated {stated:.4f}, spread {spread:.4f}")
    assert 0.98 * spread < stated < at_most * spread


def test_one_time_tells_no_error():
    rows = P1.rows(np.array([3, 4]), LENGTH)
    found = estimated_bound(rows, num_times=1)
    assert np.isfinite(found.nats).all()
    assert np.isnan(found.errors).all()


# A denoiser that looks everything up in parameters, one entry a slot.


def stub(params):
    def encode(tokens, segment_ids, alpha):
        return Encoding(params["hidden"], params["gaps"], params.get("gap_logits"))

    return Denoiser(encode=encode, decode=lambda hidden: hidden @ params["head"])


def random_params(shape, classes=0, seed=0):
    """Returns parameters for the stub, with distributions of gaps if there are classes."""
    rng = np.random.default_rng(seed)
    params = {
        "hidden": jnp.asarray(rng.normal(size=(*shape, 3)), jnp.float32),
        "gaps": jnp.asarray(rng.gamma(2.0, size=shape), jnp.float32),
        "head": jnp.asarray(rng.normal(size=(3, V.size)), jnp.float32),
    }
    if classes:
        params["gap_logits"] = jnp.asarray(rng.normal(size=(*shape, classes)), jnp.float32)
    return params


def padded_batch(mdm=False):
    """Returns (interpolant, t): six rows, the last one all padding."""
    batch = P1.rows(np.array([11, 1, 0, 8, 10]), LENGTH + 1)
    batch = filled(batch) if mdm else batch
    batch = jax.tree.map(lambda x: jnp.pad(x, ((0, 1), (0, 0))[: x.ndim]), batch)
    t = jnp.linspace(0.2, 0.9, 6)[:, None]
    return corrupt_rows(batch, t, MDM if mdm else FLEXMDM), t


def packed_batch():
    """Returns (interpolant, t): rows of several sequences, each with a time of its own."""
    e = V.end
    tokens = jnp.asarray([[0, 2, 2, e, 4, e, 0, 4, e, e], [4, 4, e, 2, 0, 2, e, 0, 0, 0]])
    segment_ids = jnp.asarray([[1, 1, 1, 1, 2, 2, 3, 3, 3, 4], [1, 1, 1, 2, 2, 2, 2, 0, 0, 0]])
    t = jnp.asarray([[0.3, 0.6, 0.8, 0.1], [0.7, 0.4, 0.5, 0.5]])
    batch = Batch(tokens, segment_ids, fixed=tokens == e, index=jnp.arange(2))
    return corrupt_rows(batch, t, FLEXMDM), t


def corrupt_rows(batch, t, process):
    return corrupt(jax.random.split(jax.random.key(3), len(batch.index)), batch, t, process)


FLEXMDM = Process(V, Sine(), Polynomial(2.0))
MDM = Process.mdm(V, Polynomial(2.0))
BATCHES = {
    "padded": (padded_batch, FLEXMDM),
    "packed": (packed_batch, FLEXMDM),
    "mdm": (lambda: padded_batch(mdm=True), MDM),
}
# With the classes of gap distributions: none, or few enough for a gap to go beyond them.
EVERY_HEAD = [*((batch, 0) for batch in BATCHES), ("padded", 2)]


def weight_of(t):
    """Returns what a time counts; any other numbers would do."""
    return 0.5 + t**2


def loss_of(params, x, t, process, **kwargs):
    times = Times(t=t, weight=weight_of(t))
    return training_loss(stub(params), x, times, process, **kwargs)


def weighted_hazards(t, inserts):
    """Returns (sine insertion, squared unmasking) hazards in float64, as much as t counts."""
    early = np.pi / 2 * np.cos(np.pi * t / 2) / (1 - np.sin(np.pi * t / 2))
    return weight_of(t) * early * inserts, weight_of(t) * 2 * t / (1 - t**2)


def loop_loss(params, x, t, inserts):
    """Returns (unmasking, insertion) losses and counts, slot by slot in float64."""
    params = {name: np.asarray(value, np.float64) for name, value in params.items()}
    hidden, gaps, head = (params[name] for name in ("hidden", "gaps", "head"))
    unmasking = insertion = num_tokens = num_slots = num_masks = 0.0
    pairs = {}
    for row, slot in np.argwhere(np.asarray(x.segment_ids) > 0):
        segment = int(x.segment_ids[row, slot])
        own_t = float(t[row, min(segment, t.shape[1]) - 1])
        h_alpha, h_beta = weighted_hazards(own_t, inserts)
        num_slots += 1
        pairs[row, segment] = pairs.get((row, segment), 0) + 1
        gap, target = float(x.gaps[row, slot]), int(x.targets[row, slot])
        num_tokens += gap + (target != V.end)
        if "gap_logits" in params:
            chances = np.exp(params["gap_logits"][row, slot])
            beyond = int(gap) >= len(chances)
            insertion -= h_alpha * np.log(chances[-1 if beyond else int(gap)] / chances.sum())
        else:
            insertion += h_alpha * (gaps[row, slot] - gap * np.log(gaps[row, slot]))
        if x.tokens[row, slot] == V.mask:
            num_masks += 1
            logits = hidden[row, slot] @ head
            possible = [v for v in range(V.size) if v != V.mask and not (inserts and v == V.end)]
            unmasking += h_beta * (np.log(np.sum(np.exp(logits[possible]))) - logits[target])
    counts = {
        "num_sequences": len(pairs),
        "num_places": x.segment_ids.size,
        "num_tokens": num_tokens,
        "num_slots": num_slots,
        "num_masks": num_masks,
        "num_pairs": sum(n * n for n in pairs.values()),
    }
    return unmasking / num_tokens, insertion / num_tokens, counts


@pytest.mark.parametrize(("batch", "classes"), EVERY_HEAD)
def test_training_loss_equals_a_loop_over_slots(batch, classes):
    make, process = BATCHES[batch]
    x, t = make()
    params = random_params(x.tokens.shape, classes)
    assert not classes or x.gaps.max() >= classes, "a gap that the last class stands for"
    loss, metrics = jax.jit(loss_of, static_argnums=3)(params, x, t, process)
    unmasking, inserting, counts = loop_loss(params, x, np.asarray(t), process.inserts)
    assert counts["num_masks"] > 2
    np.testing.assert_allclose(metrics["unmasking_loss"], unmasking, rtol=2e-5)
    np.testing.assert_allclose(metrics["insertion_loss"], inserting, rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(loss, unmasking + inserting, rtol=2e-5)
    assert {k: float(v) for k, v in metrics.items() if k.startswith("num_")} == counts


@pytest.mark.parametrize(("batch", "classes"), EVERY_HEAD)
def test_gradients_equal_finite_differences_of_the_loop(batch, classes):
    make, process = BATCHES[batch]
    x, t = make()
    params = random_params(x.tokens.shape, classes)
    grads = jax.jit(jax.grad(lambda p: loss_of(p, x, t, process)[0]))(params)
    direction = random_params(x.tokens.shape, classes, seed=1)
    step = 1e-5
    ends = [
        {k: np.asarray(params[k], np.float64) + s * np.asarray(direction[k]) for k in params}
        for s in (step, -step)
    ]
    high, low = (sum(loop_loss(p, x, np.asarray(t), process.inserts)[:2]) for p in ends)
    slope = sum(jnp.vdot(grads[k], direction[k]) for k in params)
    np.testing.assert_allclose(slope, (high - low) / (2 * step), rtol=1e-4)


@pytest.mark.parametrize(
    ("process", "num_groups", "classes"),
    [*itertools.product([FLEXMDM, MDM], [1, 3], [0]), (FLEXMDM, 1, 4)],
)
def test_padding_has_no_part_in_loss_or_gradient(process, num_groups, classes):
    """NaN at every padding slot, in a batch whose first row is empty, leaves no trace."""
    x, t = padded_batch()
    x = jax.tree.map(lambda a: jnp.roll(a, 1, axis=0), x)
    if not process.inserts:
        x = x.replace(gaps=jnp.zeros_like(x.gaps))
    params = random_params(x.tokens.shape, classes)
    padding = x.segment_ids == 0
    assert padding[0].all()
    of_slots = [name for name in params if name != "head"]
    poisoned = params | {name: params[name].at[padding].set(jnp.nan) for name in of_slots}
    run = jax.jit(jax.value_and_grad(lambda p: loss_of(p, x, t, process, num_groups=num_groups)[0]))
    loss, grads = run(params)
    poisoned_loss, poisoned_grads = run(poisoned)
    np.testing.assert_array_equal(loss, poisoned_loss)
    for name in grads:
        np.testing.assert_array_equal(grads[name], poisoned_grads[name])
    assert not any(np.any(grads[name][padding]) for name in of_slots)


def test_predictions_at_clean_slots_have_no_part_in_the_unmasking_loss():
    x, t = packed_batch()
    params = random_params(x.tokens.shape)
    masked = (x.tokens == V.mask) & (x.segment_ids > 0)
    grads = jax.jit(jax.grad(lambda p: loss_of(p, x, t, FLEXMDM)[0]))(params)
    touched = jnp.any(grads["hidden"] != 0, axis=-1)
    np.testing.assert_array_equal(touched, masked)


def test_a_vanishing_gap_prediction_keeps_loss_and_gradient_finite():
    x, t = padded_batch()
    params = random_params(x.tokens.shape)
    params["gaps"] = jnp.zeros_like(params["gaps"])
    run = jax.jit(jax.value_and_grad(lambda p: loss_of(p, x, t, FLEXMDM)[0]))
    loss, grads = run(params)
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.fixture(scope="module")
def oracle_batch():
    """A large batch of partial sequences with their times."""
    _, batch = drawn_rows(MANY_ROWS)
    keys = jax.random.split(jax.random.key(5), MANY_ROWS)
    # Away from t = 1, where the hazards' spread would hide the differences looked for.
    t = 0.9 * stratified_times(keys, jnp.arange(MANY_ROWS)[:, None], MANY_ROWS).t
    return corrupt_rows(batch, t, Process(V, Linear(), Polynomial(2.0))), t


def oracle_loss(perturbation, x, t):
    """Returns the loss beside the exact posterior; of gaps' means, unless "laws" is perturbed."""
    exact = flexmdm_oracle(P1)

    def encode(*args):
        out = exact.encode(*args)
        # The oracle's NaN at padding would reach the shared perturbation, though not the loss.
        if "laws" in perturbation:
            logits = out.gap_logits + perturbation["laws"][None, None, :]
            return out.replace(gap_logits=jnp.where(jnp.isnan(logits), 0.0, logits))
        gaps = jnp.nan_to_num(out.gaps) * jnp.exp(perturbation["gaps"])
        return Encoding(hidden=out.hidden, gaps=gaps)

    def decode(hidden):
        return exact.decode(hidden) + perturbation["logits"].reshape(
            (1,) * (hidden.ndim - 1) + (-1,)
        )

    process = Process(V, Linear(), Polynomial(2.0))
    times = Times(t=t, weight=jnp.ones_like(t))
    return training_loss(Denoiser(encode, decode), x, times, process)[0]


def test_the_exact_posterior_minimises_the_loss(oracle_batch):
    """Proposition 1: at the posterior the gradient vanishes and steps away raise the loss."""
    x, t = oracle_batch
    at = jax.jit(jax.value_and_grad(oracle_loss))
    zero = {"gaps": jnp.zeros(()), "logits": jnp.zeros(V.size)}
    best, grads = at(zero, x, t)
    # A single row's gradient has a spread of about the number of its events times the hazard.
    tolerance = 4 * 6 / MANY_ROWS**0.5
    assert abs(float(grads["gaps"])) < tolerance
    assert float(jnp.abs(grads["logits"]).max()) < tolerance
    for size in (-0.5, 0.5):
        higher, slope = at({**zero, "gaps": jnp.asarray(size)}, x, t)
        assert higher > best + 0.05
        assert float(slope["gaps"]) * size > 2 * tolerance * abs(size)
        assert at({**zero, "logits": zero["logits"].at[0].set(2 * size)}, x, t)[0] > best + 0.02


def test_the_exact_law_of_gaps_minimises_the_cross_entropy(oracle_batch):
    """The gradient vanishes there; a law with more of one number costs more, whichever it is."""
    x, t = oracle_batch
    at = jax.jit(jax.value_and_grad(oracle_loss))
    logits, laws = jnp.zeros(V.size), jnp.zeros(P1.max_length + 1)
    best, grads = at({"laws": laws, "logits": logits}, x, t)
    # Of each class, a row's gradient has a spread of about its slots times the hazard.
    tolerance = 4 * 6 / MANY_ROWS**0.5
    assert float(jnp.abs(grads["laws"]).max()) < tolerance
    for number in range(3):
        for size in (-1.0, 1.0):
            other, slope = at({"laws": laws.at[number].set(size), "logits": logits}, x, t)
            assert other > best + 0.01
            assert float(slope["laws"][number]) * size > 0


def test_the_bound_takes_the_mean_of_a_law_and_nothing_else():
    """So bounds of networks with either head compare."""
    _, batch = drawn_rows(64)
    exact = flexmdm_oracle(P1)
    told = bound(exact, batch)
    without = dataclasses.replace(
        exact, encode=lambda *x: exact.encode(*x).replace(gap_logits=None)
    )
    np.testing.assert_array_equal(bound(without, batch), told)
