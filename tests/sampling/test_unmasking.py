"""One leap: Poisson insertions into open gaps, confidences, and the rules' choices."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from flexmdm_jax.sampling import (
    CONFIDENCES,
    Adaptive,
    EntropyBound,
    ExactRate,
    TauLeaping,
    Threshold,
    empty_canvas,
    protect,
)
from flexmdm_jax.sampling.insertions import Binomial, ExactGaps, Limits, Poisson, place_one
from flexmdm_jax.sampling.lengths import NO_LIMIT
from flexmdm_jax.sampling.unmasking import Draw, Span, UnmaskingRule
from flexmdm_jax.schedules import Linear, Polynomial
from flexmdm_jax.types import Encoding, Vocabulary

V = Vocabulary(size=6, mask=0, end=1)
NUM_ROWS = 20_000
GAPS = np.array([0.8, 3.0, 1.6, 0.4])
LEAP = 0.5


def keys_of(num, seed=0):
    return jax.random.split(jax.random.key(seed), num)


def canvas_of(length, num=NUM_ROWS):
    """Returns rows of three fixed tokens and END, hence four gaps."""
    return empty_canvas(jnp.full((num, 3), 4), jnp.full(num, 3), length, V)


def insertions(canvas, leap=LEAP, gaps=GAPS, rule=Poisson(), laws=None):  # noqa: B008
    """Returns what a rule draws where each gap has the given mean, or the given law."""
    num, length = canvas.tokens.shape
    # Nothing at padding, where the loop puts zeros.
    row = np.zeros(length)
    row[: len(gaps)] = gaps
    gaps = jnp.broadcast_to(jnp.asarray(row, jnp.float32)[None, :], (num, length))
    gaps = jnp.where(canvas.open, gaps, 0.0)
    no_limit = jnp.full(num, NO_LIMIT)
    limits = Limits(room=canvas.room, least=jnp.zeros_like(no_limit), most=no_limit)
    encoding = Encoding(hidden=jnp.zeros((num, length, 1)), gaps=gaps)
    if laws is not None:
        logits = np.zeros((length, laws.shape[1]))
        logits[: len(laws)] = np.log(laws, out=np.full(laws.shape, -np.inf), where=laws > 0)
        logits = jnp.broadcast_to(jnp.asarray(logits, jnp.float32)[None], (num, *logits.shape))
        encoding = encoding.replace(gap_logits=logits)
    return jax.jit(rule.draw)(keys_of(num), encoding, gaps, jnp.full(num, leap), limits)


def chi_square(counts, chances, total):
    """Returns the p-value; cells expected less than five times are added to the likeliest."""
    expected = np.asarray(chances) * total
    large = expected >= 5
    observed, rest = counts[large].astype(float), expected[large]
    likeliest = np.argmax(rest)
    observed[likeliest] += total - observed.sum()
    rest[likeliest] += total - rest.sum()
    return stats.chisquare(observed, rest).pvalue


def test_insertions_are_independent_poisson_counts():
    drawn = insertions(canvas_of(40))
    counts = np.asarray(drawn.counts)[:, :4]
    assert not drawn.overflow.any()
    assert not np.any(drawn.counts[:, 4:])
    top = 12
    rates = LEAP * GAPS
    for gap, rate in enumerate(rates):
        seen = np.bincount(np.minimum(counts[:, gap], top), minlength=top + 1)
        law = stats.poisson.pmf(np.arange(top + 1), rate)
        assert chi_square(seen, law, NUM_ROWS) > 1e-4
    # The joint law of two gaps is the product of their laws.
    pair = np.bincount(np.minimum(counts[:, 1], 9) * 10 + np.minimum(counts[:, 2], 9))
    laws = [stats.poisson.pmf(np.arange(10), rates[i]) for i in (1, 2)]
    law = np.outer(*laws).ravel()
    assert chi_square(np.pad(pair, (0, 100 - len(pair))), law, NUM_ROWS) > 1e-4


def test_binomial_insertions_of_known_gaps_never_exceed_them():
    known = np.array([2.0, 0.0, 5.0, 1.0])
    drawn = insertions(canvas_of(40), gaps=known, rule=Binomial())
    counts = np.asarray(drawn.counts)
    assert not drawn.overflow.any()
    assert not np.any(counts[:, 4:])
    for gap, missing in enumerate(known.astype(int)):
        seen = np.bincount(counts[:, gap], minlength=missing + 1)
        law = stats.binom.pmf(np.arange(missing + 1), missing, LEAP)
        assert len(seen) == missing + 1
        assert missing == 0 or chi_square(seen, law, NUM_ROWS) > 1e-4


def test_binomial_insertions_have_the_rates_of_the_gaps():
    counts = np.asarray(insertions(canvas_of(40), leap=0.02, rule=Binomial()).counts)[:, :4]
    error = np.sqrt(0.02 * GAPS / NUM_ROWS)
    np.testing.assert_array_less(np.abs(counts.mean(axis=0) - 0.02 * GAPS), 4 * error)
    # Independent: the covariance of two gaps vanishes.
    assert abs(np.cov(counts[:, 1], counts[:, 2])[0, 1]) < 4 * 0.02 * 3 / np.sqrt(NUM_ROWS)


def test_insertions_at_temperature_0_round_to_the_nearest_count():
    nearly = np.array([2.3, 0.4, 4.6, 0.7])
    counts = np.asarray(
        insertions(canvas_of(40), gaps=nearly, rule=Binomial(temperature=0.0)).counts
    )
    for gap, missing in enumerate([2, 0, 5, 1]):
        seen = np.bincount(counts[:, gap], minlength=missing + 1)
        assert len(seen) == missing + 1
        law = stats.binom.pmf(np.arange(missing + 1), missing, LEAP)
        assert missing == 0 or chi_square(seen, law, NUM_ROWS) > 1e-4


def test_temperatures_between_round_up_more_seldom_than_the_fraction_says():
    """At 1/2, a gap of 0.4 counts as missing a token with chance (0.4 - 1/4) / (1/2)."""
    gaps = np.array([0.4, 0.2, 0.8, 1.4])
    rule = Binomial(temperature=0.5)
    counts = np.asarray(insertions(canvas_of(40), leap=1.0, gaps=gaps, rule=rule).counts)[:, :4]
    chances = np.array([0.3, 0.0, 1.0, 1.3])
    error = 4 * np.sqrt(0.25 / NUM_ROWS)
    np.testing.assert_array_less(np.abs(counts.mean(axis=0) - chances), error)


@pytest.mark.parametrize("temperature", [-0.1, 1.5])
def test_a_bad_insertion_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        Binomial(temperature=temperature)


def test_binomial_overflow_keeps_a_uniformly_random_subset():
    """All nine missing tokens are proposed, two fit: each of them is as likely as any other."""
    known = np.array([2.0, 1.0, 5.0, 1.0])
    drawn = insertions(canvas_of(6), leap=1.0, gaps=known, rule=Binomial())
    counts = np.asarray(drawn.counts)
    assert drawn.overflow.all()
    assert (counts.sum(axis=1) == 2).all()
    law = stats.multivariate_hypergeom([2, 1, 5, 1], 2)
    states = [state for state in itertools.product(range(3), repeat=4) if sum(state) == 2]
    states = [state for state in states if law.pmf(state) > 0]
    seen = np.array([(counts[:, :4] == state).all(axis=1).sum() for state in states])
    assert chi_square(seen, [law.pmf(state) for state in states], NUM_ROWS) > 1e-4


# Laws of gaps: of three and of two values, certain, and of a mean that tells little.
LAWS = np.array(
    [
        [0.5, 0.0, 0.3, 0.2, 0.0, 0.0],
        [0.1, 0.9, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
        [0.6, 0.0, 0.0, 0.0, 0.0, 0.4],
    ]
)


def thinned(law, leap):
    """Returns the law of the number of tokens inserted: a mixture of binomials."""
    counts = np.arange(len(law))
    return sum(p * stats.binom.pmf(counts, m, leap) for m, p in enumerate(law))


@pytest.mark.parametrize("leap", [LEAP, 1.0])
def test_exact_gaps_are_mixtures_of_binomials(leap):
    drawn = insertions(canvas_of(16), leap=leap, rule=ExactGaps(), laws=LAWS)
    counts = np.asarray(drawn.counts)
    assert not drawn.overflow.any()
    assert not np.any(counts[:, 4:])
    expected = [thinned(law, leap) for law in LAWS]
    for gap, law in enumerate(expected):
        seen = np.bincount(counts[:, gap], minlength=len(law))
        # Rounding in the binomial's powers leaves about 1e-17 of what cannot be.
        assert not seen[law < 1e-12].any()
        if law.max() < 1:
            assert chi_square(seen, law, NUM_ROWS) > 1e-4
    pair = np.bincount(counts[:, 0] * 6 + counts[:, 3], minlength=36)
    law = np.outer(expected[0], expected[3]).ravel()
    assert chi_square(pair, law, NUM_ROWS) > 1e-4


def test_exact_gaps_leave_closed_gaps_alone_and_keep_what_fits():
    """With two of four gaps closed, three or eight tokens are proposed and two fit."""
    canvas = protect(canvas_of(6), jnp.full(NUM_ROWS, 0), jnp.full(NUM_ROWS, 2))
    drawn = insertions(canvas, leap=1.0, rule=ExactGaps(), laws=LAWS)
    counts = np.asarray(drawn.counts)
    assert drawn.overflow.all()
    assert not counts[:, :2].any()
    assert (counts.sum(axis=1) == 2).all()
    law = np.zeros(3)
    for chance, missing in ((0.6, 0), (0.4, 5)):
        law += chance * stats.hypergeom.pmf(np.arange(3), 3 + missing, missing, 2)
    assert chi_square(np.bincount(counts[:, 3], minlength=3), law, NUM_ROWS) > 1e-4


def test_more_missing_tokens_than_a_row_can_hold_neglect_no_gap():
    """Independent gaps may come to miss more than twice the buffer together."""
    gaps = np.array([2, 5, 12, 6])
    num, leap = NUM_ROWS // 4, 0.02
    for rule in (ExactGaps(), Binomial()):
        drawn = insertions(canvas_of(9, num), leap, gaps, rule=rule, laws=np.eye(13)[gaps])
        # Hardly ever do more than five come together.
        assert drawn.overflow.mean() < 1e-3
        means = np.asarray(drawn.counts)[:, :4].mean(axis=0)
        np.testing.assert_array_less(np.abs(means - leap * gaps), 4.5 * np.sqrt(leap * gaps / num))


def test_exact_gaps_need_distributions():
    with pytest.raises(ValueError, match="exact_gaps needs distributions of gaps"):
        insertions(canvas_of(6, 2), rule=ExactGaps())


@pytest.mark.parametrize("room", [1, 2])
def test_overflow_keeps_a_uniformly_random_subset(room):
    """Each kept proposal lies in a gap with probability proportional to the gap's rate."""
    drawn = insertions(canvas_of(4 + room), leap=4.0)
    counts = np.asarray(drawn.counts)
    full = np.asarray(drawn.overflow)
    assert full.mean() == pytest.approx(stats.poisson.sf(room, 4 * GAPS.sum()), abs=0.01)
    assert (counts[full].sum(axis=1) == room).all()
    assert (counts.sum(axis=1) <= room).all()
    share = GAPS / GAPS.sum()
    kept = [row for row in np.ndindex(*[room + 1] * 4) if sum(row) == room]
    law = [stats.multinomial.pmf(row, room, share) for row in kept]
    seen = np.array([(counts[full, :4] == row).all(axis=1).sum() for row in kept])
    assert chi_square(seen, law, full.sum()) > 1e-4


def test_a_full_buffer_takes_nothing_and_says_so():
    drawn = insertions(canvas_of(4), leap=1.0)
    assert not np.any(drawn.counts)
    chance = 1 - np.exp(-GAPS.sum())
    assert float(drawn.overflow.mean()) == pytest.approx(chance, abs=0.01)


def test_closed_gaps_receive_nothing_and_leave_the_others_alone():
    canvas = protect(canvas_of(40), jnp.full(NUM_ROWS, 0), jnp.full(NUM_ROWS, 2))
    counts = np.asarray(insertions(canvas).counts)
    assert not counts[:, :2].any()
    for gap in (2, 3):
        rate = LEAP * GAPS[gap]
        error = 4.5 * (rate / NUM_ROWS) ** 0.5
        assert counts[:, gap].mean() == pytest.approx(rate, abs=error)


@pytest.mark.parametrize(("leap", "gaps"), [(0.0, GAPS), (0.5, np.zeros(4))])
def test_no_rate_no_insertion(leap, gaps):
    drawn = insertions(canvas_of(6), leap=leap, gaps=gaps)
    assert not np.any(drawn.counts)
    assert not drawn.overflow.any()


def random_log_f(seed=0, num=50):
    logits = np.random.default_rng(seed).normal(size=(num, V.size)) * 3
    logits[:, V.mask] = -np.inf
    return special.log_softmax(logits, axis=-1)


@pytest.mark.parametrize("name", ["top_prob", "margin", "entropy"])
def test_confidences_equal_numpy(name):
    log_f = random_log_f()
    probs = np.sort(np.exp(log_f), axis=-1)
    expected = {
        "top_prob": probs[:, -1],
        "margin": probs[:, -1] - probs[:, -2],
        "entropy": -stats.entropy(probs, axis=-1),
    }[name]
    got = CONFIDENCES[name](jnp.asarray(log_f, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["top_prob", "margin", "entropy"])
def test_certainty_is_the_largest_confidence(name):
    certain = jnp.log(jax.nn.one_hot(3, V.size))[None, :]
    values = CONFIDENCES[name](jnp.asarray(random_log_f(), jnp.float32))
    assert float(CONFIDENCES[name](certain)[0]) >= float(values.max())


def choose(
    rule, masked, confidence=None, *, t=0.5, t_next=0.6, finish=False, one=False, unmasking=None
):
    """Returns the chosen slots, and the slots for which tokens were asked."""
    asked = []

    def draw(slots):
        asked.append(slots)
        return Draw(tokens=jnp.full(slots.shape, 4), confidence=confidence)

    choice = rule.choose(
        keys_of(masked.shape[0], seed=3),
        masked,
        draw,
        unmasking or Linear(),
        Span(*(jnp.full(masked.shape[0], x) for x in (t, t_next, finish, one))),
    )
    return np.asarray(choice.slots), np.asarray(asked[0])


def random_masks(num, length=8):
    return jnp.asarray(np.random.default_rng(0).random((num, length)) < 0.6)


@pytest.mark.parametrize("rule", [ExactRate(), TauLeaping()])
def test_independent_rules_unmask_each_mask_with_its_chance(rule):
    masked = random_masks(NUM_ROWS)
    schedule = Polynomial(2.0)
    slots, asked = choose(rule, masked, unmasking=schedule)
    masked = np.asarray(masked)
    assert not slots[~masked].any()
    np.testing.assert_array_equal(slots, asked)
    rate = 0.1 * 2 * 0.5 / (1 - 0.25)
    leap = (0.36 - 0.25) / (1 - 0.25)
    chance = leap if isinstance(rule, ExactRate) else rate * np.exp(-rate)
    assert slots[masked].mean() == pytest.approx(chance, abs=4.5 * (chance / masked.sum()) ** 0.5)
    # Two slots are unmasked together as often as independence says.
    both = masked[:, 0] & masked[:, 1]
    together = (slots[both, 0] & slots[both, 1]).mean()
    assert together == pytest.approx(chance**2, abs=4.5 * chance / both.sum() ** 0.5)


def test_tau_leaping_is_one_poisson_event_of_one_token():
    """r·exp(-r) is the chance of exactly one event among Poisson(r f[v]) counts."""
    rate, f = 0.7, np.array([0.5, 0.3, 0.2])
    exactly_one = sum(
        stats.poisson.pmf(1, rate * f[v]) * np.prod(stats.poisson.pmf(0, rate * np.delete(f, v)))
        for v in range(3)
    )
    t = 0.5
    chance = TauLeaping().chance(Linear(), jnp.full(1, t), jnp.full(1, t + rate * (1 - t)))
    assert chance.item() == pytest.approx(exactly_one, rel=1e-5)


@pytest.mark.parametrize("name", CONFIDENCES)
@pytest.mark.parametrize("window_size", [0, 2])
def test_adaptive_takes_the_most_confident_of_a_poisson_number(name, window_size):
    num = 4000
    masked = random_masks(num)
    confidence = jnp.asarray(np.random.default_rng(1).normal(size=masked.shape), jnp.float32)
    rule = Adaptive(name, window_factor=1.0, window_size=window_size)
    slots, asked = choose(rule, masked, confidence, t_next=0.7)
    masked, confidence, taken = np.asarray(masked), np.asarray(confidence), slots.sum(axis=1)
    assert not slots[~masked].any()
    assert (slots <= asked).all()
    # How many: Poisson, but no more than there are, nor than the window holds.
    for size in (3, 6):
        rows = masked.sum(axis=1) == size
        most = min(size, window_size or size)
        law = stats.poisson.pmf(np.arange(most), 0.4 * size)
        law = np.append(law, 1 - law.sum())
        seen = np.bincount(taken[rows], minlength=most + 1)
        assert chi_square(seen, law, rows.sum()) > 1e-4
    # Which: of the eligible, those with the highest scores.
    for row in range(200):
        order = np.flatnonzero(masked[row])
        # A window no wider than the number taken leaves the leftmost masks and no choice.
        if name != "leftmost" and not window_size:
            order = sorted(order, key=lambda i: -confidence[row, i])
        np.testing.assert_array_equal(np.flatnonzero(slots[row]), sorted(order[: taken[row]]))


def test_the_window_is_a_multiple_of_the_number_taken():
    """With ⌊2.5 K⌋ masks eligible, the most confident K of exactly those are taken."""
    num = 2000
    masked = jnp.ones((num, 8), bool)
    confidence = jnp.asarray(np.random.default_rng(1).normal(size=masked.shape), jnp.float32)
    rule = Adaptive("margin", window_factor=2.5, window_size=5)
    slots, asked = choose(rule, masked, confidence, t_next=0.6)
    confidence, taken = np.asarray(confidence), slots.sum(axis=1)
    for row in range(num):
        k = int(taken[row])
        window = min(int(2.5 * k), 5)
        assert asked[row].sum() == window
        best = np.argsort(-confidence[row, :window], kind="stable")[:k]
        assert set(np.flatnonzero(slots[row])) == set(best)
    assert len(set(taken)) > 3


@pytest.mark.parametrize(
    "rule", [ExactRate(), TauLeaping(), *map(Adaptive, CONFIDENCES), Adaptive("margin", 1.0, 1)]
)
def test_finish_unmasks_everything(rule):
    assert isinstance(rule, UnmaskingRule)
    masked = random_masks(50)
    slots, _ = choose(rule, masked, jnp.zeros(masked.shape), finish=True)
    np.testing.assert_array_equal(slots, masked)


EVERY_RULE = [
    ExactRate(),
    *map(Adaptive, CONFIDENCES),
    Adaptive("margin", 1.0, 1),
    Threshold(1e-3),
    EntropyBound(100.0),
]


@pytest.mark.parametrize("rule", EVERY_RULE)
def test_one_mask_is_one_mask(rule):
    masked = random_masks(50)
    confidence = jnp.asarray(np.random.default_rng(1).normal(size=masked.shape), jnp.float32)
    slots, _ = choose(rule, masked, confidence, one=True)
    some = np.asarray(masked).any(axis=1)
    np.testing.assert_array_equal(slots.sum(axis=1), some)
    assert not slots[~np.asarray(masked)].any()
    # Of the masks that are eligible, the surest: the leftmost, if the window is no wider.
    narrow = getattr(rule, "window_size", 0) == 1 or rule.confidence == "leftmost"
    if rule.confidence:
        score = np.where(masked, 0.0 if narrow else confidence, -np.inf)
        np.testing.assert_array_equal(slots.argmax(axis=1)[some], score.argmax(axis=1)[some])


def test_one_mask_of_an_independent_rule_is_any_of_them():
    masked = jnp.ones((NUM_ROWS, 4), bool).at[:, 1].set(False)
    slots, _ = choose(ExactRate(), masked, one=True)
    seen = np.bincount(slots.argmax(axis=1), minlength=4)
    assert chi_square(seen[[0, 2, 3]], np.full(3, 1 / 3), NUM_ROWS) > 1e-4


def test_a_threshold_unmasks_what_exceeds_it_and_one_mask_at_least():
    masked = random_masks(300)
    confidence = np.random.default_rng(1).random(masked.shape).astype(np.float32)
    slots, asked = choose(Threshold(0.8), masked, jnp.asarray(confidence))
    masked = np.asarray(masked)
    np.testing.assert_array_equal(asked, masked)
    for row in range(300):
        sure = masked[row] & (confidence[row] > 0.8)
        if not sure.any() and masked[row].any():
            sure[np.argmax(np.where(masked[row], confidence[row], -1))] = True
        np.testing.assert_array_equal(slots[row], sure)


@pytest.mark.parametrize("bound", [0.0, 0.3, 2.0])
def test_an_entropy_bound_holds_for_the_sum(bound):
    masked = random_masks(300)
    entropies = np.random.default_rng(1).exponential(0.3, masked.shape).astype(np.float32)
    slots, _ = choose(EntropyBound(bound), masked, -jnp.asarray(entropies))
    for row, mask in enumerate(np.asarray(masked)):
        taken, total = [], 0.0
        for i in sorted(np.flatnonzero(mask), key=lambda i: entropies[row, i]):
            total += entropies[row, i]
            if taken and total > bound:
                break
            taken.append(i)
            if total > bound:
                break
        assert np.flatnonzero(slots[row]).tolist() == sorted(taken)


def test_one_insertion_goes_where_tokens_are_missing():
    wanted = jnp.arange(NUM_ROWS) % 2 == 0
    gaps = jnp.broadcast_to(jnp.asarray([0.0, 3.0, 1.0, 0.0])[None, :], (NUM_ROWS, 4))
    counts = np.asarray(place_one(keys_of(NUM_ROWS), gaps, wanted))
    np.testing.assert_array_equal(counts.sum(axis=1), wanted)
    seen = counts.sum(axis=0)
    assert seen[[0, 3]].tolist() == [0, 0]
    assert chi_square(seen[1:3], [0.75, 0.25], seen.sum()) > 1e-4


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="confidence 'entropy'; choose top_prob or margin"):
        Threshold(confidence="entropy")
    with pytest.raises(ValueError, match="unknown confidence 'sure'; choose one of top_prob"):
        Adaptive("sure")
    with pytest.raises(ValueError, match="window_factor"):
        Adaptive(window_factor=0.5)
    with pytest.raises(ValueError, match="window_size"):
        Adaptive(window_size=-1)
