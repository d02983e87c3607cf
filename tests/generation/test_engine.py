"""The engine: each row is what it would be alone, wherever and whenever it is worked on."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexmdm_jax.config import MeshConfig
from flexmdm_jax.conformance import P1, VOCABULARY, flexmdm_oracle
from flexmdm_jax.generation import engine as engines
from flexmdm_jax.generation.engine import Engine, Scheduler, buffer_lengths
from flexmdm_jax.generation.pools import Job, Row
from flexmdm_jax.generation.starts import Start
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import Adaptive, Remask, SamplerConfig, generate
from flexmdm_jax.schedules import Immediate
from flexmdm_jax.sharding import make_mesh

LENGTH, SEED = 9, 3
PROCESS = Process(VOCABULARY)
SAMPLERS = {
    "adaptive": SamplerConfig(),
    "grid": SamplerConfig(steps=8),
    "exact": SamplerConfig(exact=True),
    "corrector": SamplerConfig(corrector=Remask(0.2, 0.5)),
    "by confidence": SamplerConfig(rule=Adaptive(), events_per_step=0.5),
}
# What rows continue.
PREFIXES = [[0, 2], [4], [], [2], [4, 4]]


@functools.cache
def exact_with_extra():
    """Returns a denoiser whose parameters are what is added to every gap."""
    exact = flexmdm_oracle(P1)

    def denoiser(extra):
        def encode(*args):
            out = exact.encode(*args)
            return out.replace(gaps=out.gaps + extra)

        return dataclasses.replace(exact, encode=encode)

    return denoiser


@pytest.fixture(autouse=True)
def short_buffers(monkeypatch):
    """Buffers of 4 and 9 slots: rows of a few tokens move on."""
    monkeypatch.setattr(engines, "buffer_lengths", lambda length: (4, length))


def engine(batch_size=4, devices=1, **settings):
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    return Engine(exact_with_extra(), PROCESS, mesh, batch_size, LENGTH, **settings)


def start(prefix):
    return Start.of(prefix, [len(prefix)], PROCESS, LENGTH)


def jobs(name, num=10, **others):
    return [
        Job(start(PREFIXES[n % len(PREFIXES)]), SAMPLERS[name], SEED, n, **others)
        for n in range(num)
    ]


@functools.cache
def by_generate(name, extra, num=10):
    """Returns what generate() makes of jobs(), all at once in one buffer of full length."""
    sampler, own = SAMPLERS[name], jobs(name, num)
    canvases = [job.start.canvas(LENGTH, VOCABULARY.end) for job in own]
    canvas = jax.tree.map(lambda *rows: np.concatenate(rows), *canvases)
    keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(SEED), n))(np.arange(num))
    settings = sampler.settings(num, LENGTH)
    return jax.device_get(whole(sampler.kinds)(keys, canvas, settings, jnp.float32(extra)))


@functools.cache
def whole(kinds):
    return jax.jit(
        lambda keys, canvas, settings, extra: generate(
            keys, exact_with_extra()(extra), canvas, kinds, PROCESS, settings=settings
        )
    )


def described(row):
    numbers = (row.calls, row.inserted, row.broken, row.truncated, row.cut_short)
    return (row.tokens.tolist(), row.fixed.tolist(), *numbers)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("extra", [0.0, 3.0])
def test_rows_are_what_generate_makes_of_them(name, extra):
    """Whatever buffers they go through, and though places are taken by others in turn."""
    rows = engine().complete(jnp.float32(extra), jobs(name))
    truth = by_generate(name, extra)
    assert [row.tokens.tolist() for row in rows] == [row.tolist() for row in truth.sequences()]
    for field in ("calls", "truncated", "cut_short", "inserted", "broken"):
        np.testing.assert_array_equal([getattr(row, field) for row in rows], getattr(truth, field))
    assert any(row.truncated for row in rows) == (extra > 0)


@pytest.mark.parametrize("name", ["adaptive", "exact"])
def test_order_company_and_dispatches_change_nothing(name):
    params = jnp.float32(0.3)
    together = engine().complete(params, jobs(name))
    alone = [engine().complete(params, [job])[0] for job in jobs(name)]
    backwards = engine().complete(params, jobs(name)[::-1])[::-1]
    hasty = engine(calls=1).complete(params, jobs(name))
    for others in (alone, backwards, hasty):
        assert [described(row) for row in others] == [described(row) for row in together]


def test_kinds_and_numbers_of_all_sorts_go_together():
    params = jnp.float32(0.0)
    names = [*SAMPLERS, *SAMPLERS]
    mixed = [
        dataclasses.replace(job, sampler=dataclasses.replace(SAMPLERS[name], temperature=warmth))
        for warmth in (1.0, 0.5)
        for name, job in zip(names, jobs("grid"), strict=True)
    ]
    found = engine().complete(params, mixed)
    alone = [engine().complete(params, [job])[0] for job in mixed]
    assert [described(row) for row in found] == [described(row) for row in alone]


def test_programs_are_as_many_as_buffers_and_kinds(monkeypatch):
    made = []
    whole = engines.make_program

    def counted(*arguments, grows):
        program = whole(*arguments, grows=grows)
        made.append((program, arguments[2]))
        return program

    monkeypatch.setattr(engines, "make_program", counted)
    mixed = [
        dataclasses.replace(job, sampler=dataclasses.replace(job.sampler, temperature=warmth))
        for warmth in (0.0, 0.7, 1.0)
        for name in ("adaptive", "exact")
        for job in jobs(name)
    ]
    engine().complete(jnp.float32(3.0), mixed)
    programs = {id(program): program for program, _ in made}
    # Of each kind one for buffers that have a longer one behind them and one for the longest.
    assert len(programs) == 4
    assert sum(program._cache_size() for program in programs.values()) == 2 * 2


@pytest.mark.parametrize("name", ["adaptive", "exact"])
def test_eight_devices_draw_what_one_does(name):
    found = []
    for devices in (1, 8):
        own = engine(batch_size=8, devices=devices)
        with jax.set_mesh(own.mesh):
            found.append(own.complete(jnp.float32(0.3), jobs(name)))
    assert [described(row) for row in found[0]] == [described(row) for row in found[1]]


def test_watched_rows_end_as_others_do_and_show_every_call():
    watched, params = jobs("corrector", 6, watched=True), jnp.float32(0.5)
    frames = {n: [] for n in range(6)}
    rows = {}
    for number, event in engine().run(params, watched):
        (rows.__setitem__ if isinstance(event, Row) else lambda n, x: frames[n].append(x))(
            number, event
        )
    for number, row in enumerate(engine().complete(params, jobs("corrector", 6))):
        assert described(rows[number]) == described(row)
        own = frames[number]
        assert [frame.call for frame in own] == list(range(row.calls + 1))
        assert own[0].tokens == tuple(PREFIXES[number % 5])
        assert own[-1].tokens == tuple(row.tokens.tolist())
        assert own[-1].time == 1.0
        for before, after in itertools.pairwise(own):
            _check_marks(before, after)


def _check_marks(before, after):
    """What was not changed by the call stands there in its order, with its marks."""
    mask = VOCABULARY.mask
    old = list(zip(before.tokens, before.changed, before.confidence, before.fixed, strict=True))
    new = list(zip(after.tokens, after.changed, after.confidence, after.fixed, strict=True))
    kept = iter(old)
    assert all(slot in kept for slot in new if slot[1] < after.call)
    for token, changed, confidence, fixed in new:
        assert changed <= after.call
        assert (changed == 0) == fixed
        assert (confidence is None) == (fixed or token == mask)
        assert confidence is None or 0 < confidence <= 1


def test_confidence_is_the_networks_probability():
    """Of the first token that a row of one open gap gets, known by asking the denoiser."""
    [frames] = [
        [e for _, e in engine().run(jnp.float32(0.0), [job]) if not isinstance(e, Row)]
        for job in jobs("exact", 1, watched=True)
    ]
    exact = exact_with_extra()(0.0)
    for before, after in itertools.pairwise(frames):
        for place, (token, changed) in enumerate(zip(after.tokens, after.changed, strict=True)):
            if changed != after.call or token == VOCABULARY.mask:
                continue
            tokens = jnp.array([[*before.tokens, VOCABULARY.end]])
            alpha = jnp.array([[PROCESS.insertion.at(before.time)]])
            logits = exact.decode(exact.encode(tokens, jnp.ones_like(tokens), alpha).hidden)
            chance = jax.nn.softmax(logits[0, place])[token]
            assert after.confidence[place] == pytest.approx(float(chance), rel=1e-4)


def test_a_job_that_is_cancelled_leaves_its_place():
    params = jnp.float32(0.0)
    scheduler = Scheduler(engine(batch_size=1), params)
    numbers = [scheduler.add(job) for job in jobs("exact", 3)]
    scheduler.step()
    scheduler.cancel(numbers[0])
    scheduler.cancel(numbers[1])
    events = []
    while scheduler.busy:
        events += scheduler.step()
    [(number, row)] = events
    assert number == numbers[2]
    assert described(row) == described(engine(batch_size=1).complete(params, jobs("exact", 3))[2])
    scheduler.cancel(numbers[2])
    assert scheduler.step() == []


def test_jobs_are_taken_as_places_become_free():
    taken = []

    def endless():
        for number, job in enumerate(jobs("adaptive", 10) * 100):
            taken.append(number)
            yield job

    for number, _ in engine(batch_size=2).run(jnp.float32(0.0), endless()):
        assert len(taken) <= number + 30
        if number > 100:
            break
    assert len(taken) < 200


def test_what_waits_and_what_has_a_place_can_be_asked_for():
    scheduler = Scheduler(engine(batch_size=2), jnp.float32(0.0))
    assert (scheduler.num_waiting, scheduler.num_placed, scheduler.num_places) == (0, 0, 0)
    numbers = [scheduler.add(Job(start([]), SAMPLERS["grid"], 0, n)) for n in range(3)]
    assert (scheduler.num_waiting, scheduler.num_placed, scheduler.num_places) == (3, 0, 2)
    pools = scheduler.num_pools
    for number in numbers[:2]:
        scheduler.cancel(number)
    assert (scheduler.num_waiting, scheduler.num_placed) == (1, 0)
    while scheduler.busy:
        scheduler.step()
    assert (scheduler.num_waiting, scheduler.num_placed) == (0, 0)
    assert 1 == pools <= scheduler.num_pools <= 2


def test_pools_of_kinds_that_nobody_asks_for_any_more_are_forgotten(monkeypatch):
    """Kinds of samplers are without number, and each pool holds rows and a program."""
    monkeypatch.setattr(engines, "_KEPT", 3)
    scheduler = Scheduler(engine(), jnp.float32(0.0))
    for size in range(1, 9):
        corrector = Remask(size / 10, 0.5)
        number = scheduler.add(Job(start([]), SamplerConfig(corrector=corrector), 0))
        assert scheduler.num_pools <= 3
        scheduler.cancel(number)
    waiting = [
        scheduler.add(Job(start([]), SamplerConfig(corrector=Remask(0.2, size / 10)), 0))
        for size in range(1, 9)
    ]
    assert len(waiting) <= scheduler.num_pools <= len(waiting) + 3


def test_mdm_fills_one_buffer():
    process = Process(VOCABULARY, Immediate())
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    from flexmdm_jax.conformance import mdm_oracle

    exact = mdm_oracle(P1, 6)
    own = Engine(lambda _: exact, process, mesh, 4, 6)
    assert own.lengths == (6,)
    begin = Start.of([4], [1], process, 6)
    rows = own.complete(None, [Job(begin, SamplerConfig(steps=6), 0, n) for n in range(9)])
    assert all(row.tokens[0] == 4 and VOCABULARY.mask not in row.tokens for row in rows)
    with pytest.raises(ValueError, match="lengths are fixed"):
        Start.of([4], [0, 1], process, 6)


def test_buffers_are_powers_of_two_and_the_length():
    assert buffer_lengths(300) == (64, 128, 256, 300)
    assert buffer_lengths(128) == (64, 128)
    assert buffer_lengths(7) == (7,)


def test_buffers_of_twice_the_length_hold_half_as_many_rows():
    own = engine(batch_size=12)
    assert [own.rows(n) for n in own.lengths] == [12, 5]
    assert [engine(batch_size=12, devices=8).rows(n) for n in own.lengths] == [16, 8]
    with pytest.raises(ValueError, match="batch_size = 0"):
        engine(batch_size=0)


def test_what_does_not_fit_is_refused():
    scheduler = Scheduler(engine(), jnp.float32(0.0))
    with pytest.raises(ValueError, match="9 given tokens leave no room"):
        start(range(9))
    with pytest.raises(ValueError, match="do not fit"):
        scheduler.add(Job(start([0, 2]), SamplerConfig(min_length=8), 0))
    assert not scheduler.busy
