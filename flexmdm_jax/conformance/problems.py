"""What a sampler is asked to draw: each problem has a law, its exact denoiser, and a canvas."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from flexmdm_jax.conformance.chains import Chain, chain_oracle, hidden_words
from flexmdm_jax.conformance.enumeration import flexmdm_oracle
from flexmdm_jax.conformance.formulas import (
    large_vocabulary,
    large_vocabulary_oracle,
    long_word,
    long_word_oracle,
)
from flexmdm_jax.conformance.laws import LONG_GAPS, LONG_RUN, P1, Law
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import Canvas, start_canvas
from flexmdm_jax.types import Denoiser, HostOrDevice, Vocabulary


def tempting(denoiser: Denoiser, vocabulary: Vocabulary) -> Denoiser:
    """Returns the denoiser with logits of 0 at MASK and END, where an exact one has -inf.

    A network has rows of its head for them like for any token, and nobody trains them: whoever
    draws from f has to leave them out.
    """

    def decode(hidden: Float[HostOrDevice, "*slots d"]) -> Float[Array, "*slots v"]:
        never = jnp.array([vocabulary.mask, vocabulary.end])
        return denoiser.decode(hidden).at[..., never].set(0.0)

    return dataclasses.replace(denoiser, decode=decode)


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A law to draw from, and all that a sampler is given for it.

    Attributes:
      name: What reports call it.
      law: Of finished sequences, with their fixed tokens.
      denoiser: An exact one. Its logits at MASK and END are finite, as a network's are.
      length: Slots of the buffer, END included.
      prefix: Tokens that every row starts with.
      suffix: Tokens that every row ends in.
      num_samples: Enough to tell the usual mistakes from the truth.
    """

    name: str
    law: Law
    denoiser: Denoiser
    length: int
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    num_samples: int = 4_000

    @property
    def process(self) -> Process:
        """Returns the process of the law's vocabulary, with linear schedules."""
        return Process(self.law.vocabulary)

    def canvas(self, num: int) -> Canvas:
        """Returns the canvas of num rows that sampling starts from."""
        return start_canvas(num, self.length, self.process, prefix=self.prefix, suffix=self.suffix)


def _problem(name: str, law: Law, denoiser: Denoiser, **settings) -> Problem:
    denoiser = tempting(denoiser, law.vocabulary)
    return Problem(name, law, denoiser, length=law.max_length + 1, **settings)


def _conditional(name: str, prefix: tuple[int, ...], suffix: tuple[int, ...] = ()) -> Problem:
    law = P1.given(prefix, suffix)
    denoiser = flexmdm_oracle(law, len(prefix), len(suffix))
    return _problem(name, law, denoiser, prefix=prefix, suffix=suffix)


def problems() -> dict[str, Problem]:
    """Returns the problems by name.

    `short_words` has a dozen words of up to 4 tokens, `prefix` and `infilling` the same given how
    they begin, or begin and end. `long_gaps` has few sequences, of 0 to 10 tokens, `long_run` of
    none or 13. `hidden_words` is a hidden Markov model of up to 12 tokens. `large_vocabulary` has
    131,072 tokens, nearly all of them rare, and `long_word` far more tokens than its buffer holds.
    """
    chain, long_words = hidden_words(), long_word(7)
    found = (
        _problem("short_words", P1, flexmdm_oracle(P1)),
        _conditional("prefix", (0,)),
        _conditional("infilling", (0,), (0,)),
        _problem("long_gaps", LONG_GAPS, chain_oracle(Chain.of(LONG_GAPS))),
        _problem("long_run", LONG_RUN, chain_oracle(Chain.of(LONG_RUN)), num_samples=1_000),
        _problem("hidden_words", chain.law(), chain_oracle(chain)),
        _problem(
            "large_vocabulary", large_vocabulary(), large_vocabulary_oracle(), num_samples=8_000
        ),
        _problem("long_word", long_words, long_word_oracle(), num_samples=500),
    )
    return {problem.name: problem for problem in found}
