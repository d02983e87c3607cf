"""The sampler that benchmarks compare with samples the law, or the comparison would say nothing."""

import functools

import jax
from effort import OPTIMISED

from benchmarks.plain_sampler import plain_sampler
from flexmdm_jax.conformance import P1, VOCABULARY, flexmdm_oracle
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import cut_at_end, start_canvas

ROWS = 4_000


def test_the_plain_sampler_comes_close_to_the_law():
    process, oracle = Process(VOCABULARY), flexmdm_oracle(P1)
    canvas = start_canvas(ROWS, 9, process)

    @functools.partial(jax.jit, compiler_options=OPTIMISED)
    def run(key):
        written = plain_sampler(key, oracle, canvas, process, 64)
        return cut_at_end(written.tokens, VOCABULARY)

    tokens, lengths = run(jax.random.key(0))
    # 64 steps of the paper's sampler are off by .055 (docs/results.md), 16 by .19.
    assert P1.total_variation(tokens, lengths) < 0.055 + 2 * P1.floor(ROWS)
