"""Length control: exact lengths, limits, and how far the law of what is written then is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from effort import either
from sampler_programs import program

from flexmdm_jax.conformance import P1, VOCABULARY, Law, flexmdm_oracle
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import SamplerConfig, check_canvas, generate, start_canvas
from flexmdm_jax.sampling.lengths import NO_LIMIT, scaled_gaps

ROWS = either(2_000, 20_000)
LENGTH = 7
PROCESS = Process(VOCABULARY)
PACES = {"steps": {"steps": 32}, "adaptive": {"events_per_step": 0.25}, "exact": {"exact": True}}


CONTINUED = flexmdm_oracle(P1.given((0,)), 1)


def draw(pace, least, most):
    sampler = SamplerConfig(**PACES[pace], min_length=least, max_length=most)
    canvas = start_canvas(ROWS, LENGTH, PROCESS, prefix=(0,))
    keys = jax.random.split(jax.random.key(0), ROWS)
    run = program(sampler.kinds, CONTINUED, PROCESS)
    return run(keys, canvas, sampler.settings(ROWS, LENGTH))


@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize(("least", "most"), [(0, 1), (1, 2), (2, 2), (3, 0), (5, 5)])
def test_generated_tokens_are_as_many_as_asked_for(pace, least, most):
    samples = draw(pace, least, most)
    generated = np.asarray(samples.lengths) - 1
    assert (generated >= least).all()
    assert (generated <= (most or LENGTH)).all()
    assert not samples.truncated.any()
    assert (np.asarray(samples.tokens)[:, 0] == 0).all()


@pytest.mark.parametrize("pace", PACES)
def test_limits_that_say_nothing_change_nothing(pace):
    free, limited = draw(pace, 0, 0), draw(pace, 0, 5)
    np.testing.assert_array_equal(free.tokens, limited.tokens)


def conditional(length):
    """Returns the law given that so many tokens follow the prefix."""
    law = P1.given((0,))
    fits = [(x, p) for x, p in zip(law.sequences, law.probs, strict=True) if len(x) == length + 1]
    total = sum(p for _, p in fits)
    return Law(tuple(x for x, _ in fits), tuple(p / total for _, p in fits))


def test_with_gaps_and_tokens_conditioned_on_the_length_the_law_is_exact():
    """An oracle of the words of one length: then nothing is left to scale, and limits agree."""
    law = conditional(2)
    oracle = flexmdm_oracle(law, 1)
    canvas = start_canvas(ROWS, LENGTH, PROCESS, prefix=(0,))
    sampler = SamplerConfig(exact=True, min_length=2, max_length=2)
    samples = jax.jit(lambda keys: generate(keys, oracle, canvas, sampler, PROCESS))(
        jax.random.split(jax.random.key(0), ROWS)
    )
    assert law.total_variation(samples.tokens, samples.lengths) <= law.floor(ROWS) + 2.5 / np.sqrt(
        ROWS
    )


def test_scaled_gaps_keep_their_proportions():
    gaps = jnp.asarray([[0.5, 1.5, 0.0], [0.5, 1.5, 0.0], [0.5, 1.5, 0.0], [0.0, 0.0, 0.0]])
    is_open = jnp.asarray([[True, True, False]] * 4)
    least, most = jnp.asarray([0, 4, 0, 3]), jnp.asarray([NO_LIMIT, 9, 1, 3])
    scaled = scaled_gaps(gaps, is_open, least, most)
    np.testing.assert_array_equal(scaled[0], gaps[0])
    np.testing.assert_allclose(scaled[1:3], [[1, 3, 0], [0.25, 0.75, 0]])
    # Without expectations, every open gap alike.
    np.testing.assert_allclose(scaled[3], [1.5, 1.5, 0])


def test_lengths_that_no_row_can_have_are_refused():
    canvas = start_canvas(2, LENGTH, PROCESS, prefix=(0, 2), suffix=(4,))
    check_canvas(canvas, SamplerConfig(min_length=3), PROCESS)
    with pytest.raises(ValueError, match="4 generated tokens do not fit: rows have 7 slots, of wh"):
        check_canvas(canvas, SamplerConfig(min_length=4), PROCESS)
    closed = canvas.replace(closed=jnp.ones_like(canvas.closed))
    with pytest.raises(ValueError, match="1 generated tokens fit nowhere: no gap is open"):
        check_canvas(closed, SamplerConfig(min_length=1), PROCESS)
    mdm = Process.mdm(VOCABULARY)
    with pytest.raises(ValueError, match="a least or largest length is for FlexMDM only"):
        check_canvas(start_canvas(2, LENGTH, mdm), SamplerConfig(max_length=1), mdm)
