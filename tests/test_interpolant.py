"""corrupt() against an independent loop, and against the interpolant's laws by quadrature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from flexmdm_jax.interpolant import corrupt, stratified_times
from flexmdm_jax.process import Process
from flexmdm_jax.schedules import Cosine, Geometric, Immediate, Linear, Polynomial, Sine
from flexmdm_jax.types import Batch, Vocabulary

# Data tokens on both sides of MASK and END.
V = Vocabulary(size=40, mask=7, end=3)
DATA = np.array([v for v in range(V.size) if v not in (V.mask, V.end)])
KINDS = {
    "linear": Linear(),
    "polynomial": Polynomial(3.0),
    "sine": Sine(),
    "cosine": Cosine(),
    "geometric": Geometric(),
}
ROWS, LENGTH = 3, 14


@functools.cache
def corrupt_with(insertion, unmasking):
    return jax.jit(functools.partial(corrupt, process=Process(V, insertion, unmasking)))


def filled(tokens, fixed):
    """Returns rows without padding."""
    return Batch(tokens, jnp.ones_like(tokens), fixed, index=jnp.arange(len(tokens)))


def keys_of(seed, num):
    return jax.random.split(jax.random.key(seed), num)


# Laws of a single token (MATH: P(absent) = 1 - α, P(mask) = ∫ α'(u) (1 - β(t)) / (1 - β(u)) du).


def level(schedule, t):
    return float(schedule.at(jnp.asarray(t, jnp.float32)))


def mask_chance(insertion, unmasking, t):
    def density(u):
        slope = (level(insertion, u + 1e-3) - level(insertion, u - 1e-3)) / 2e-3
        return slope * (1 - level(unmasking, t)) / (1 - level(unmasking, u))

    nodes = np.linspace(0, t, 129)
    inner = np.clip(nodes, 1e-3, None)
    return integrate.simpson([density(u) for u in inner], x=nodes)


@pytest.mark.parametrize("insertion", KINDS)
@pytest.mark.parametrize("unmasking", ["linear", "sine", "geometric"])
def test_tokens_are_absent_masked_or_clean_with_the_right_chances(insertion, unmasking):
    insertion, unmasking = KINDS[insertion], KINDS[unmasking]
    num, n = 4000, 12
    tokens = jnp.full((num, n + 1), 5).at[:, n].set(V.end)
    fixed = tokens == V.end
    for t in (0.3, 0.8):
        x = corrupt_with(insertion, unmasking)(
            keys_of(0, num), filled(tokens, fixed), jnp.full((num, 1), t)
        )
        absent = 1 - (x.segment_ids.sum() - num) / (num * n)
        masked = ((x.tokens == V.mask) & (x.segment_ids > 0)).sum() / (num * n)
        error = 4.5 * 0.5 / (num * n) ** 0.5
        assert float(absent) == pytest.approx(1 - level(insertion, t), abs=error)
        chance = mask_chance(insertion, unmasking, t)
        assert float(masked) == pytest.approx(chance, abs=error + 1e-3)


def test_linear_mask_chance_has_its_closed_form():
    t = 0.7
    assert mask_chance(Linear(), Linear(), t) == pytest.approx(-(1 - t) * np.log(1 - t), abs=2e-3)


def test_tokens_change_independently():
    """The states of a pair of tokens are as often alike as independence says."""
    num, t = 40_000, 0.5
    tokens = jnp.broadcast_to(jnp.asarray([[5, 6, V.end]]), (num, 3))
    x = corrupt_with(Linear(), Linear())(
        keys_of(1, num), filled(tokens, tokens == V.end), jnp.full((num, 1), t)
    )
    both = np.asarray(x.tokens == V.mask).sum(axis=1) == 2
    chance = mask_chance(Linear(), Linear(), t) ** 2
    assert both.mean() == pytest.approx(chance, abs=4.5 * (chance / num) ** 0.5)


# Any batch of packed rows: property tests and a loop.


def loop_corrupt(keys, batch, t, insertion, unmasking):
    """Corrupts token by token; returns for each row its slots, as rows_of() has them."""
    tokens, segment_ids, fixed = batch.tokens, batch.segment_ids, batch.fixed
    rows = []
    for row in range(len(tokens)):
        levels = np.asarray(jax.random.uniform(keys[row], (tokens.shape[1], 2)))
        kept, missing = [], 0
        for slot, token in enumerate(np.asarray(tokens[row])):
            segment = int(segment_ids[row, slot])
            if segment == 0:
                continue
            time = float(t[row, min(segment, t.shape[1]) - 1])
            birth = float(insertion.inverse(jnp.asarray(levels[slot, 0])))
            start = level(unmasking, birth)
            unmasked_at = start + (1 - start) * float(levels[slot, 1])
            if fixed[row, slot]:
                state = token
            elif levels[slot, 0] >= level(insertion, time):
                missing += 1
                continue
            else:
                state = token if level(unmasking, time) >= unmasked_at else V.mask
            closed = bool(batch.closed[row, slot] & fixed[row, slot])
            kept.append((int(state), segment, int(token), missing, closed))
            missing = 0
        rows.append(kept)
    return rows


def packed(seed):
    """Returns random packed rows and their times."""
    rng = np.random.default_rng(seed)
    tokens = np.full((ROWS, LENGTH), V.end)
    segment_ids = np.zeros((ROWS, LENGTH), int)
    fixed = np.zeros((ROWS, LENGTH), bool)
    for row in range(ROWS):
        start = 0
        for segment in range(1, rng.integers(1, 5)):
            n = int(rng.integers(0, 6))
            if start + n + 1 > LENGTH:
                break
            stop = start + n
            tokens[row, start:stop] = rng.choice(DATA, n)
            segment_ids[row, start : stop + 1] = segment
            fixed[row, start:stop] = rng.random(n) < 0.2
            fixed[row, stop] = True
            start = stop + 1
    t = rng.choice([0.0, 0.1, 0.5, 0.9, 1 - 2**-20, rng.random()], size=(ROWS, 4))
    batch = Batch(
        tokens=jnp.asarray(tokens, jnp.int32),
        segment_ids=jnp.asarray(segment_ids, jnp.int32),
        fixed=jnp.asarray(fixed),
        index=jnp.arange(ROWS),
        closed=jnp.asarray(rng.random((ROWS, LENGTH)) < 0.5),
    )
    return batch, jnp.asarray(t, jnp.float32)


def rows_of(x):
    """Returns per row its slots, as tuples of token, segment, target, gap, and if it is closed."""
    arrays = [np.asarray(a) for a in (x.tokens, x.segment_ids, x.targets, x.gaps, x.closed)]
    return [
        [tuple(int(a[row, i]) for a in arrays) for i in np.flatnonzero(arrays[1][row])]
        for row in range(len(arrays[0]))
    ]


@pytest.mark.parametrize(
    ("insertion", "unmasking"),
    [(Linear(), Linear()), (Sine(), Polynomial(3.0)), (Immediate(), Cosine())],
)
def test_corrupt_equals_a_loop_over_tokens(insertion, unmasking):
    for seed in range(12):
        batch, t = packed(seed)
        keys = keys_of(seed, ROWS)
        x = corrupt_with(insertion, unmasking)(keys, batch, t)
        assert rows_of(x) == loop_corrupt(keys, batch, t, insertion, unmasking)


seeds = st.integers(0, 2**31 - 1)
many = settings(max_examples=60)


@many
@given(seeds)
def test_partial_sequences_keep_order_and_account_for_every_token(seed):
    batch, t = packed(seed)
    segment_ids, fixed = batch.segment_ids, batch.fixed
    # Targets that name their own slot make the order visible.
    own_slot = jnp.arange(LENGTH)[None, :] + 10
    tokens = jnp.where(fixed & (batch.tokens == V.end), V.end, own_slot)
    x = corrupt_with(Linear(), Linear())(keys_of(seed, ROWS), batch.replace(tokens=tokens), t)
    for row, kept in enumerate(rows_of(x)):
        assert (np.diff(np.flatnonzero(x.segment_ids[row])) == 1).all()
        for segment in range(1, int(segment_ids[row].max()) + 1):
            own = [slot for slot in kept if slot[1] == segment]
            clean = np.asarray(tokens[row])[np.asarray(segment_ids[row]) == segment].tolist()
            position = -1
            for state, _, target, gap, _ in own:
                # Each slot says exactly how many clean tokens it jumps over.
                position += gap + 1
                assert clean[position] == target
                assert state in (target, V.mask)
            assert own[-1][0] == own[-1][2] == V.end
            assert position == len(clean) - 1
        always = np.asarray(tokens[row])[np.asarray(fixed[row] & (segment_ids[row] > 0))]
        shown = [slot[0] for slot in kept]
        assert [v for v in shown if v in set(always.tolist())] == always.tolist()
    padding = np.asarray(x.segment_ids) == 0
    assert (np.asarray(x.tokens)[padding] == V.end).all()
    assert (np.asarray(x.targets)[padding] == V.end).all()
    assert (np.asarray(x.gaps)[padding] == 0).all()
    assert not np.asarray(x.closed)[padding].any()


@many
@given(seeds)
def test_the_amount_of_padding_changes_nothing(seed):
    batch, t = packed(seed)
    pad = ((0, 0), (0, 5))
    padded = batch.replace(
        tokens=jnp.pad(batch.tokens, pad, constant_values=V.end),
        segment_ids=jnp.pad(batch.segment_ids, pad),
        fixed=jnp.pad(batch.fixed, pad),
        closed=jnp.pad(batch.closed, pad),
    )
    narrow = corrupt_with(Sine(), Linear())(keys_of(seed, ROWS), batch, t)
    wide = corrupt_with(Sine(), Linear())(keys_of(seed, ROWS), padded, t)
    assert rows_of(narrow) == rows_of(wide)
    assert not np.any(wide.segment_ids[:, LENGTH:])


@many
@given(seeds)
def test_a_row_does_not_depend_on_its_batch(seed):
    rows = packed(seed)
    keys = keys_of(seed, ROWS)
    whole = corrupt_with(Linear(), Linear())(keys, *rows)
    turned = corrupt_with(Linear(), Linear())(keys[::-1], *jax.tree.map(lambda a: a[::-1], rows))
    assert rows_of(whole) == rows_of(turned)[::-1]


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_start_only_fixed_tokens_are_there(kind):
    batch, t = packed(0)
    x = corrupt_with(KINDS[kind], Linear())(keys_of(0, ROWS), batch, jnp.zeros_like(t))
    real, fixed = batch.segment_ids > 0, batch.fixed
    np.testing.assert_array_equal((x.segment_ids > 0).sum(axis=1), (fixed & real).sum(axis=1))
    assert not np.any((x.tokens == V.mask) & (x.segment_ids > 0))
    np.testing.assert_array_equal(x.gaps.sum(axis=1), (real & ~fixed).sum(axis=1))


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_end_everything_is_there_and_clean(kind):
    batch, t = packed(0)
    x = corrupt_with(KINDS[kind], KINDS[kind])(keys_of(0, ROWS), batch, jnp.ones_like(t))
    np.testing.assert_array_equal(x.tokens, jnp.where(batch.segment_ids > 0, batch.tokens, V.end))
    np.testing.assert_array_equal(x.segment_ids, batch.segment_ids)
    assert not np.any(x.gaps)


def test_immediate_insertion_is_masked_diffusion():
    """Nothing is absent; tokens, END padding among them, are masked with chance 1 - β(t)."""
    num, t = 4000, 0.4
    tokens = jnp.broadcast_to(jnp.asarray([[5, 6, V.end, V.end]]), (num, 4))
    fixed = jnp.zeros(tokens.shape, bool).at[:, 0].set(True)
    x = corrupt_with(Immediate(), Sine())(
        keys_of(2, num), filled(tokens, fixed), jnp.full((num, 1), t)
    )
    np.testing.assert_array_equal(x.targets, tokens)
    assert not np.any(x.gaps)
    masked = np.asarray(x.tokens == V.mask)
    assert not masked[:, 0].any()
    chance = 1 - np.sin(np.pi * t / 2)
    np.testing.assert_allclose(masked[:, 1:].mean(axis=0), chance, atol=4.5 * 0.5 / num**0.5)


def test_stratified_times_have_one_draw_in_each_part():
    num = 64
    stratum = jnp.arange(num).reshape(16, 4)
    t = np.asarray(stratified_times(keys_of(0, 16), stratum, num).t)
    np.testing.assert_array_equal(np.floor(t * num), stratum)
    offsets = t * num - np.asarray(stratum)
    assert len(np.unique(offsets)) == num
    assert abs(offsets.mean() - 0.5) < 4.5 * (1 / 12 / num) ** 0.5
    late = stratified_times(keys_of(0, 2000), jnp.full((2000, 1), 2**24 - 1), 2**24).t
    assert float(late.max()) < 1
