"""Many rows from few at a time: each is what it would be alone, in the order asked for."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexmdm_jax.config import MeshConfig
from flexmdm_jax.conformance import P1, VOCABULARY, flexmdm_oracle
from flexmdm_jax.generation.engine import Engine, default_buckets
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import Remask, SamplerConfig, generate, prefix_canvas
from flexmdm_jax.sharding import make_mesh

LENGTH, NUM, SEED = 7, 5, 3
PROCESS = Process(VOCABULARY)
SAMPLER = SamplerConfig(steps=8, trace=8)
# Row i continues the i-th of these.
PREFIXES = np.array([[0, 2], [4, 0], [0, 0], [2, 2], [4, 4]], np.int32)
LENGTHS = np.array([2, 1, 0, 1, 2], np.int32)


def canvas_of(numbers):
    return prefix_canvas(PREFIXES[numbers], LENGTHS[numbers], LENGTH, PROCESS)


@functools.cache
def engine(rows):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    # The parameters are what is added to every gap.
    exact = flexmdm_oracle(P1)

    def denoiser(extra):
        def encode(*args):
            out = exact.encode(*args)
            return out.replace(gaps=out.gaps + extra)

        return dataclasses.replace(exact, encode=encode)

    return Engine(denoiser, PROCESS, SAMPLER, mesh, rows)


def one_by_one(extra):
    """Returns (tokens, truncated, trace) of each row, generated alone and without an engine."""
    denoiser = engine(1).denoiser(extra)
    run = jax.jit(lambda key, canvas: generate(key, denoiser, canvas, SAMPLER, PROCESS))
    for i in range(NUM):
        key = jax.random.fold_in(jax.random.key(SEED), i)
        out = run(key[None], canvas_of(np.array([i])))
        yield out.tokens[0, : out.lengths[0]].tolist(), bool(out.truncated[0]), out.trace[:, 0]


@pytest.mark.parametrize("rows", [2, 3, 8])
@pytest.mark.parametrize("extra", [0.0, 3.0])
def test_a_row_is_what_it_would_be_alone(rows, extra):
    out = engine(rows).complete(jnp.float32(extra), canvas_of, num=NUM, seed=SEED)
    tokens, truncated, states = zip(*one_by_one(extra), strict=True)
    assert [row.tolist() for row in out.tokens] == list(tokens)
    assert out.lengths.tolist() == [len(row) for row in tokens]
    assert out.truncated.tolist() == list(truncated)
    assert any(truncated) == (extra > 0)
    np.testing.assert_array_equal(out.states, np.stack(states, axis=1))


def test_batches_end_with_the_last_row():
    batches = list(engine(2).batches(jnp.float32(0), canvas_of, num=NUM, seed=SEED))
    assert [len(batch.lengths) for batch in batches] == [2, 2, 1]
    assert [batch.trace.shape[:2] for batch in batches] == [(8, 2), (8, 2), (8, 1)]


@pytest.mark.parametrize("num", [0, -1])
def test_at_least_one_row_is_wanted(num):
    with pytest.raises(ValueError, match=f"num = {num}; it must be at least 1"):
        engine(2).complete(jnp.float32(0), canvas_of, num=num, seed=SEED)
    assert not list(engine(2).batches(jnp.float32(0), canvas_of, num=num, seed=SEED))


def test_devices_share_the_rows_evenly():
    mesh = make_mesh(MeshConfig())
    for rows in (0, 4, 12):
        with pytest.raises(ValueError, match=f"rows = {rows}; they must be a multiple of 8"):
            Engine(engine(1).denoiser, PROCESS, SAMPLER, mesh, rows)


def test_buckets_are_powers_of_two_and_the_length():
    assert default_buckets(100) == (32, 64, 100)
    assert default_buckets(64) == (32, 64)
    assert default_buckets(7) == (7,)


def test_eight_devices_draw_what_one_does_whatever_the_pace():
    """Event by event and with a corrector, rows end at calls of their own."""
    sampler = SamplerConfig(exact=True, corrector=Remask(0.2, 0.5))
    found = []
    for devices in (1, 8):
        mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
        with jax.set_mesh(mesh):
            own = Engine(engine(1).denoiser, PROCESS, sampler, mesh, 8)
            found.append(own.complete(jnp.float32(0), canvas_of, num=NUM, seed=SEED))
    alone, together = found
    assert [x.tolist() for x in alone.tokens] == [x.tolist() for x in together.tokens]
    np.testing.assert_array_equal(alone.calls, together.calls)
    assert len(set(alone.calls.tolist())) > 1


def test_samplers_that_differ_in_numbers_share_a_program():
    one, other = (
        dataclasses.replace(engine(2), sampler=SamplerConfig(temperature=x, max_calls=n))
        for x, n in ((1.0, 0), (0.2, 9))
    )
    assert one.program is other.program
    assert dataclasses.replace(one, sampler=SamplerConfig(exact=True)).program is not one.program
