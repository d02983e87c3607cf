"""generate() against a plain Python loop over lists, and what must not change a row."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from flexmdm_jax.conformance import P1, VOCABULARY, flexmdm_oracle
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import (
    Adaptive,
    ExactRate,
    Poisson,
    SamplerConfig,
    TauLeaping,
    check_canvas,
    empty_canvas,
    generate,
    masked_canvas,
    protect,
    start_canvas,
)
from flexmdm_jax.sampling.drawing import _restrict, _sample
from flexmdm_jax.sampling.leaps import Grid
from flexmdm_jax.schedules import LAST_TIME, SCHEDULES, Cosine, Immediate, Linear, Sine
from flexmdm_jax.types import Denoiser, Encoding, Vocabulary

V = Vocabulary(size=12, mask=4, end=9)
ROWS, LENGTH, STEPS = 8, 10, 12


def random_denoiser(gap_scale):
    """Returns a denoiser with arbitrary features that depend on the whole row and on alpha."""
    rng = np.random.default_rng(0)
    embedding, position, projection, time = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((V.size, 6), (64, 6), (6, V.size), (1, 6))
    )
    # MASK and END look likely, so a sampler that could produce them would.
    bias = jnp.zeros(V.size).at[jnp.asarray([V.mask, V.end])].set(3.0)

    def encode(tokens, segment_ids, alpha):
        real = (segment_ids > 0)[:, :, None]
        x = jnp.where(real, embedding[tokens], 0.0)
        mean = jnp.sum(x, axis=1, keepdims=True) / jnp.sum(real, axis=1, keepdims=True)
        x = x + mean + position[None, : tokens.shape[1]] + alpha[:, :, None] * time[None]
        hidden = jnp.sin(x)
        gaps = gap_scale * (1 + jnp.cos(jnp.sum(x, axis=-1)))
        return Encoding(
            hidden=jnp.where(real, hidden, jnp.nan),
            gaps=jnp.where(real[:, :, 0], gaps, jnp.nan),
        )

    def decode(hidden):
        shape = (1,) * (hidden.ndim - 1) + (-1,)
        return 2 * hidden @ projection + bias.reshape(shape)

    return Denoiser(encode=encode, decode=decode)


@dataclasses.dataclass(frozen=True)
class Case:
    """A sampler on a canvas."""

    sampler: SamplerConfig
    gap_scale: float = 0.35
    length: int = LENGTH
    mdm: bool = False

    @property
    def process(self):
        return Process(V, Immediate() if self.mdm else Sine(), Cosine())


def case(**kwargs):
    own = {k: kwargs.pop(k) for k in ("gap_scale", "length", "mdm") if k in kwargs}
    kinds = {"steps": STEPS, "grid": Linear(), "insertions": Poisson()}
    return Case(SamplerConfig(**kinds | kwargs), **own)


CASES = {
    "exact_rate": case(),
    "nothing in the last step": case(insert_rest=False),
    "overflow": case(gap_scale=3.0),
    "tau_leaping, top_k": case(rule=TauLeaping(), temperature=0.8, top_k=3),
    "top_prob, top_p": case(rule=Adaptive("top_prob"), temperature=1.5, top_p=0.7),
    "cosine grid": case(grid=Cosine(), gap_scale=0.2),
    "margin, window": case(rule=Adaptive("margin", 1.5, 2)),
    "entropy, argmax": case(rule=Adaptive("entropy"), temperature=0.0),
    "leftmost, window": case(rule=Adaptive("leftmost", 2.0, 1), top_k=4, top_p=0.8),
    "mdm": case(mdm=True, rule=Adaptive("top_prob")),
    "mdm, blocks": case(mdm=True, block_length=3),
    "mdm, blocks, sine grid": case(mdm=True, block_length=3, grid=Sine()),
}


def start(length, mdm=False):
    """Returns canvases with prompts of 0 to 3 tokens, whose inner gaps are closed."""
    prompts = jnp.broadcast_to(jnp.asarray([[1, 11, 6]]), (ROWS, 3))
    lengths = jnp.arange(ROWS) % 4
    if mdm:
        return masked_canvas(prompts, lengths, length, V)
    return protect(empty_canvas(prompts, lengths, length, V), jnp.zeros_like(lengths), lengths)


@functools.cache
def runner(this: Case):
    return jax.jit(
        functools.partial(
            generate,
            denoiser=random_denoiser(this.gap_scale),
            sampler=this.sampler,
            process=this.process,
            trace=STEPS,
        )
    )


def keys_of(num=ROWS, seed=0):
    return jax.random.split(jax.random.key(seed), num)


@functools.cache
def samples_of(name):
    this = CASES[name]
    return runner(this)(keys_of(), canvas=start(this.length, this.mdm))


# The plain loop: one row at a time, the canvas a list of tokens that ends in END (FlexMDM).


def survival_sine(t):
    return 1 - np.sin(np.pi * t / 2)


def survival_cosine(t):
    return np.cos(np.pi * t / 2)


def leap(survival, t, t_next):
    return 1 - survival(t_next) / survival(t)


class PlainRow:
    """One row of the reference sampler."""

    def __init__(self, key, tokens, closed, length, this: Case):
        self.key, self.tokens, self.closed = key, list(tokens), list(closed)
        self.length, self.this, self.truncated = length, this, False
        self.denoiser = _jitted(this.gap_scale)
        first = self.tokens.index(V.mask) if this.mdm else 0
        self.first_mask = first
        size = this.sampler.block_length
        self.num_blocks = -(-(length - first) // size) if size else 1

    def padded(self):
        return self.tokens + [V.end] * (self.length - len(self.tokens))

    def logits(self, alpha):
        real = [1] * len(self.tokens) + [0] * (self.length - len(self.tokens))
        logits, gaps = self.denoiser(
            jnp.asarray([self.padded()]), jnp.asarray([real]), jnp.full((1, 1), alpha, jnp.float32)
        )
        logits = np.array(logits[0], np.float64)
        logits[:, V.mask] = -np.inf
        if not self.this.mdm:
            logits[:, V.end] = -np.inf
        return logits, np.array(gaps[0], np.float64)[: len(self.tokens)]

    def step(self, number, t, t_next, finish, block):
        choice_key, draw_key, insert_key, *_ = jax.random.split(
            jax.random.fold_in(self.key, number), 5
        )
        if finish and self.this.sampler.insert_rest:
            t = LAST_TIME
        logits, gaps = self.logits(1.0 if self.this.mdm else 1 - survival_sine(t))
        masks = [i for i, v in enumerate(self.tokens) if v == V.mask]
        size = self.this.sampler.block_length
        if size:
            masks = [i for i in masks if (i - self.first_mask) // size == block]
        chosen = self.choose(choice_key, masks, logits, t, t_next, finish)
        for slot in chosen:
            self.tokens[slot] = self.draw(jax.random.fold_in(draw_key, slot), logits[slot])
        if not finish and not self.this.mdm:
            rest = number == STEPS - 2 and self.this.sampler.insert_rest
            self.insert(insert_key, gaps, 1.0 if rest else leap(survival_sine, t, t_next))

    def choose(self, key, masks, logits, t, t_next, finish):
        if finish:
            return masks
        rule = self.this.sampler.rule
        chance = leap(survival_cosine, t, t_next)
        if isinstance(rule, TauLeaping):
            hazard = np.pi / 2 * np.sin(np.pi * t / 2) / np.cos(np.pi * t / 2)
            rate = hazard * (t_next - t)
            chance = rate * np.exp(-rate)
        if not isinstance(rule, Adaptive):
            noise = np.asarray(jax.random.uniform(key, (self.length,)))
            return [i for i in masks if noise[i] < chance]
        count = int(jax.random.poisson(key, np.float32(chance * len(masks))))
        if rule.window_size:
            masks = masks[: min(int(np.floor(rule.window_factor * count)), rule.window_size)]
        return sorted(masks, key=lambda i: self.preference(logits[i], i))[:count]

    def preference(self, logits, slot):
        """Returns what sorts surer slots first."""
        probs = np.sort(special.softmax(logits))
        return {
            "top_prob": -probs[-1],
            "margin": probs[-2] - probs[-1],
            "entropy": stats.entropy(probs),
            "leftmost": slot,
        }[self.this.sampler.rule.confidence]

    def draw(self, key, logits):
        sampler = self.this.sampler
        if sampler.temperature == 0:
            return int(np.argmax(logits))
        logits = restricted(logits / sampler.temperature, sampler.top_k, sampler.top_p)
        return int(jax.random.categorical(key, jnp.asarray(logits, jnp.float32), mode="high"))

    def insert(self, key, gaps, chance):
        total_key, place_key = jax.random.split(key)
        rates = np.where(self.closed, 0.0, chance * gaps)
        total = int(jax.random.poisson(total_key, np.float32(rates.sum())))
        points = np.asarray(jax.random.uniform(place_key, (self.length,))) * rates.sum()
        room = self.length - len(self.tokens)
        self.truncated |= total > room
        counts = [0] * len(self.tokens)
        for point in points[: min(total, room)]:
            counts[int(np.argmax(np.cumsum(rates) > point))] += 1
        tokens, closed = [], []
        for token, shut, count in zip(self.tokens, self.closed, counts, strict=True):
            tokens += [V.mask] * count + [token]
            closed += [False] * count + [shut]
        self.tokens, self.closed = tokens, closed


@functools.cache
def _jitted(gap_scale):
    denoiser = random_denoiser(gap_scale)

    @jax.jit
    def run(*args):
        out = denoiser.encode(*args)
        return denoiser.decode(out.hidden), out.gaps

    return run


def restricted(logits, top_k, top_p):
    """Returns logits with -inf outside the top_k and, among those left, outside the top_p."""
    order = np.argsort(-logits, kind="stable")
    kept = order[: top_k or None]
    probs = special.softmax(logits[kept])
    before = np.cumsum(probs) - probs
    kept = kept[before < top_p] if top_p < 1 else kept
    out = np.full_like(logits, -np.inf)
    out[kept] = logits[kept]
    return out


# How a grid turns the share of the steps that are done into a time.
GRIDS = {
    Linear(): lambda share: share,
    Sine(): lambda share: np.sin(np.pi * share / 2),
    Cosine(): lambda share: 1 - np.cos(np.pi * share / 2),
}


def time_grid(steps, num_blocks, grid):
    """Yields (number, t, t_next, finish, block): earlier blocks get the odd steps."""
    number, at = 0, GRIDS[grid]
    for block in range(num_blocks):
        size = steps // num_blocks + (block < steps % num_blocks)
        for k in range(size):
            yield number, at(k / size), at((k + 1) / size), k + 1 == size, block
            number += 1


def times_of_steps(steps, num_blocks, grid):
    """Returns the times of all steps, in rows of so many blocks."""
    num_blocks = jnp.asarray(num_blocks)
    full = lambda x: jnp.full(num_blocks.shape, x)  # noqa: E731
    times = lambda number: Grid(grid).times_of_step(full(number), full(steps), num_blocks)  # noqa: E731
    return jax.vmap(times)(jnp.arange(steps))


@pytest.mark.parametrize("grid", [kind() for kind in SCHEDULES.values()])
def test_however_fine_the_grid_every_leap_is_a_probability(grid):
    times = jax.tree.map(np.squeeze, times_of_steps(20_000, [2], grid))
    assert (times.t >= 0).all()
    assert (times.t < 1).all()
    for half in np.split(np.asarray(times.t), 2):
        assert half[0] < 1e-6
        assert (np.diff(half) >= 0).all()
    assert np.flatnonzero(times.finish).tolist() == [9_999, 19_999]
    np.testing.assert_allclose(times.t_next[times.finish], 1.0)
    for schedule in (Linear(), Sine(), Cosine()):
        leaps = schedule.leap(times.t, times.t_next)
        assert (leaps >= 0).all()
        assert (leaps <= 1).all()


def plain_loop(name):
    """Returns (trace [n, b, l], truncated [b])."""
    this = CASES[name]
    canvas = start(this.length, this.mdm)
    rows = []
    for i, key in enumerate(keys_of()):
        size = int(canvas.segment_ids[i].sum())
        rows.append(
            PlainRow(
                key,
                canvas.tokens[i, :size].tolist(),
                canvas.closed[i, :size].tolist(),
                this.length,
                this,
            )
        )
    trace = []
    grids = [time_grid(STEPS, row.num_blocks, this.sampler.grid) for row in rows]
    for times in zip(*grids, strict=True):
        for row, now in zip(rows, times, strict=True):
            row.step(*now)
        trace.append([row.padded() for row in rows])
    return np.array(trace), np.array([row.truncated for row in rows])


@pytest.mark.parametrize("name", CASES)
def test_the_jitted_loop_equals_a_plain_loop_step_for_step(name):
    samples = samples_of(name)
    trace, truncated = plain_loop(name)
    np.testing.assert_array_equal(samples.trace, trace)
    np.testing.assert_array_equal(samples.truncated, truncated)
    assert truncated.any() == (name == "overflow")


@pytest.mark.parametrize("name", CASES)
def test_samples_are_finished_sequences(name):
    samples, this = samples_of(name), CASES[name]
    tokens, lengths = np.asarray(samples.tokens), np.asarray(samples.lengths)
    assert not (tokens == V.mask).any()
    inside = np.arange(this.length)[None, :] < lengths[:, None]
    assert (tokens[inside] != V.end).all()
    assert (tokens[~inside] == V.end).all()
    canvas = start(this.length, this.mdm)
    for row in range(ROWS):
        prompt = np.asarray(canvas.tokens[row])[: row % 4]
        np.testing.assert_array_equal(tokens[row, : len(prompt)], prompt)
    if not this.mdm:
        # FlexMDM's END is never drawn: what stands before it at the end stood there all along.
        np.testing.assert_array_equal(tokens, samples.trace[-1])


@pytest.mark.parametrize("name", ["exact_rate", "overflow", "top_prob, top_p"])
def test_a_row_does_not_depend_on_its_batch(name):
    this = CASES[name]
    turned = runner(this)(
        keys_of()[::-1],
        canvas=jax.tree.map(lambda x: x[::-1], start(this.length)),
    )
    np.testing.assert_array_equal(samples_of(name).trace, turned.trace[:, ::-1])
    np.testing.assert_array_equal(samples_of(name).truncated, turned.truncated[::-1])


def test_groups_change_nothing():
    this = CASES["exact_rate"]
    run = functools.partial(
        generate,
        keys_of(),
        random_denoiser(this.gap_scale),
        start(this.length),
        this.sampler,
        this.process,
        trace=STEPS,
        num_groups=4,
    )
    np.testing.assert_array_equal(jax.jit(run)().trace, samples_of("exact_rate").trace)


def test_truncated_names_exactly_the_rows_that_outgrow_the_buffer():
    num, narrow = 400, 3
    process = Process(VOCABULARY)

    def run(length):
        canvas = start_canvas(num, length, process)
        sampler = SamplerConfig(steps=32)
        oracle = flexmdm_oracle(P1)
        return jax.jit(lambda keys: generate(keys, oracle, canvas, sampler, process, trace=32))(
            keys_of(num)
        )

    wide, cut = run(12), run(narrow)
    assert not wide.truncated.any()
    longest = (np.asarray(wide.trace) != VOCABULARY.end).sum(axis=2).max(axis=0)
    np.testing.assert_array_equal(cut.truncated, longest + 1 > narrow)
    assert 0 < cut.truncated.sum() < num
    # Where nothing overflows, the length of the buffer has no say.
    fits = ~np.asarray(cut.truncated)
    np.testing.assert_array_equal(cut.tokens[fits], wide.tokens[fits, :narrow])
    np.testing.assert_array_equal(cut.lengths[fits], wide.lengths[fits])


def test_closed_gaps_stay_closed_and_fixed_tokens_stay():
    """With only the gap between prefix and suffix open, both ends keep their tokens."""
    fixed = jnp.broadcast_to(jnp.asarray([[1, 2, 3, 5]]), (ROWS, 4))
    canvas = empty_canvas(fixed, jnp.full(ROWS, 4), LENGTH, V)
    canvas = protect(canvas, jnp.full(ROWS, 0), jnp.full(ROWS, 2))
    canvas = protect(canvas, jnp.full(ROWS, 3), jnp.full(ROWS, 5))
    out = runner(CASES["overflow"])(keys_of(), canvas=canvas)
    for row, length in zip(np.asarray(out.tokens), np.asarray(out.lengths), strict=True):
        assert length > 4
        assert row[:2].tolist() == [1, 2]
        assert row[length - 2 : length].tolist() == [3, 5]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9, LENGTH, 100])
def test_no_block_is_begun_before_those_on_its_left_are_full(size):
    """Blocks of the generated part: counted in each row from the slot after its prompt."""
    samples = runner(case(mdm=True, block_length=size))(keys_of(), canvas=start(LENGTH, mdm=True))
    trace = np.asarray(samples.trace)
    for row in range(ROWS):
        blocks = range(row % 4, LENGTH, size)
        states = trace[:, row]
        masked = np.array([(states[:, i : i + size] == V.mask).sum(axis=1) for i in blocks])
        whole = np.array([[min(i + size, LENGTH) - i] for i in blocks])
        for left, right, slots in zip(masked, masked[1:], whole[1:], strict=False):
            assert (right[left > 0] == slots).all()
        assert not masked[:, -1].any()


def test_more_blocks_than_steps_still_leave_no_mask():
    this = Case(SamplerConfig(steps=3, block_length=2), mdm=True)
    samples = runner(this)(keys_of(), canvas=start(LENGTH, mdm=True))
    assert not (np.asarray(samples.tokens) == V.mask).any()


@pytest.mark.parametrize("steps", [1, 2, 7, 12, 13])
def test_every_block_of_a_row_has_its_share_of_the_steps(steps):
    num_blocks = np.arange(1, steps + 1)
    times = times_of_steps(steps, num_blocks, Linear())
    for row, number in enumerate(num_blocks):
        parts = np.array_split(np.arange(steps), number)
        block = np.concatenate([np.full(len(part), k) for k, part in enumerate(parts)])
        np.testing.assert_array_equal(times.block[:, row], block)
        t = np.concatenate([np.arange(len(part)) / len(part) for part in parts])
        t_next = np.concatenate([np.arange(1, len(part) + 1) / len(part) for part in parts])
        np.testing.assert_allclose(times.t[:, row], t, atol=1e-7)
        np.testing.assert_allclose(times.t_next[:, row], t_next, atol=1e-7)
        np.testing.assert_array_equal(times.finish[:, row], t_next == 1)


def test_impossible_samplers_are_refused():
    sampler = SamplerConfig(steps=4, block_length=2)
    with pytest.raises(ValueError, match="for MDM only"):
        generate(keys_of(), random_denoiser(1.0), start(LENGTH), sampler, Process(V))
    with pytest.raises(ValueError, match="for MDM only"):
        check_canvas(start(LENGTH), sampler, Process(V))
    canvas = start(LENGTH, mdm=True)
    with pytest.raises(ValueError, match="steps = 4 cannot fill 5 blocks of 2"):
        check_canvas(canvas, sampler, Process.mdm(V))
    behind_a_prompt = jax.tree.map(lambda leaf: leaf[3:4], canvas)
    check_canvas(behind_a_prompt, sampler, Process.mdm(V))


def sample(keys, logits, temperature=1.0, top_k=0, top_p=1.0):
    """Returns a token for each row of logits."""
    full = lambda x: jnp.full(len(logits), x)  # noqa: E731
    warm = jnp.maximum(full(temperature), 1e-6)
    if top_k or top_p < 1:
        logits = _restrict(logits, warm, full(top_k), full(top_p))
    return _sample(keys, logits, full(temperature), jnp.asarray(temperature == 0))


@pytest.mark.parametrize("temperature", [1e-7, 1e-30, 1e-45])
def test_a_temperature_next_to_nothing_takes_the_likeliest_token(temperature):
    logits = jnp.asarray([[3.0, 90.0, -jnp.inf, 89.0], [-1e30, -2e30, -jnp.inf, -3e30]])
    keys = jax.random.split(jax.random.key(0), 2)
    assert sample(keys, logits, temperature).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 3, 1.0), (1.0, 0, 0.6), (1.5, 4, 0.8), (1.0, 50, 1e-6)],
)
def test_tokens_are_drawn_from_the_restricted_law(temperature, top_k, top_p):
    num = 20_000
    logits = np.random.default_rng(2).normal(size=V.size) * 1.5
    logits[V.mask] = -np.inf
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32)[None, :], (num, V.size))
    run = jax.jit(lambda keys, rows: sample(keys, rows, temperature, top_k, top_p))
    seen = np.bincount(run(keys_of(num), rows), minlength=V.size)
    law = special.softmax(restricted(logits / temperature, top_k, top_p))
    assert not seen[law == 0].any()
    error = 4.5 * np.sqrt(law * (1 - law) / num)
    assert (np.abs(seen / num - law) <= error + 1e-9).all()


def test_what_stays_of_f_is_what_sorting_says():
    """Rows with numbers of their own, and logits of all sizes and signs."""
    rng = np.random.default_rng(5)
    num = 300
    logits = rng.normal(size=(num, V.size)) * rng.choice([1e-3, 1.0, 30.0], (num, 1))
    logits[:, V.mask] = -np.inf
    logits[:, V.end] = 0.0
    temperature = rng.uniform(0.5, 2, num)
    top_k, top_p = rng.integers(0, V.size + 2, num), rng.choice([1e-6, 0.3, 0.9, 1.0], num)
    kept = jax.jit(_restrict)(
        jnp.asarray(logits, jnp.float32),
        jnp.asarray(temperature, jnp.float32),
        jnp.asarray(top_k, jnp.int32),
        jnp.asarray(top_p, jnp.float32),
    )
    for i in range(num):
        expected = restricted(np.float32(logits[i]) / temperature[i], int(top_k[i]), top_p[i])
        np.testing.assert_array_equal(np.isfinite(kept[i]), np.isfinite(expected))


def test_temperature_zero_takes_the_most_likely_token():
    logits = jnp.asarray(np.random.default_rng(3).normal(size=(50, V.size)), jnp.float32)
    np.testing.assert_array_equal(sample(keys_of(50), logits, 0.0), np.argmax(logits, axis=-1))


def test_rows_may_differ_in_their_numbers_and_are_what_they_would_be_alone():
    """Temperature, restrictions and steps are data: a batch of all cases is the cases."""
    this = CASES["exact_rate"]
    numbers = [
        {"temperature": 0.0},
        {"top_k": 2},
        {"top_p": 0.5, "temperature": 1.5},
        {"steps": 5},
        {"max_calls": 4},
        {"max_length": 3},
        {"finish_below": 0.9},
        {},
    ]
    samplers = [dataclasses.replace(this.sampler, **x) for x in numbers]
    canvas = start(this.length)
    each = [sampler.settings(1, this.length) for sampler in samplers]
    mixed = jax.tree.map(lambda *x: jnp.concatenate(x), *each)
    kinds = dataclasses.replace(this.sampler, top_k=1)
    run = jax.jit(
        lambda keys, canvas, settings: generate(
            keys, random_denoiser(this.gap_scale), canvas, kinds, this.process, settings=settings
        )
    )
    together = run(keys_of(), canvas, mixed)
    for i, sampler in enumerate(samplers):
        row = jax.tree.map(lambda x, i=i: x[i : i + 1], canvas)
        alone = runner(dataclasses.replace(this, sampler=sampler))(keys_of()[i : i + 1], canvas=row)
        np.testing.assert_array_equal(together.tokens[i], alone.tokens[0])
        assert together.calls[i] == alone.calls[0]
    assert together.calls[3] <= 5
    assert together.calls[4] == 4
    assert together.cut_short.tolist() == [i == 4 for i in range(ROWS)]


def test_rules_default_to_the_exact_rate():
    assert SamplerConfig().rule == ExactRate()
