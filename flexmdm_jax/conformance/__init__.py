"""A judge of samplers of FlexMDM, any codebase's, on laws that are known exactly.

Each problem is a law of sequences and its exact denoiser, which stands in for a network. A sampler
that gets `f` and `g` right has nothing to learn: what it draws is its own doing. For `theirs`, a
sampler of any library:

    >>> def sample(keys, denoiser, canvas, process):
    ...     tokens, lengths = theirs(keys, denoiser.encode, denoiser.decode, canvas, process)
    ...     return tokens, lengths  # and, if it likes, the network calls of each row
    >>> judgements = judge_all(sample)
    >>> report = table(judgements)

`encode(tokens, segment_ids, alpha)` gives hidden features and expected gaps, `decode(hidden)` the
logits. As with a network, MASK and END have logits too, which a sampler has to leave out, and at
padding nothing means anything (it is NaN).
"""

from flexmdm_jax.conformance.chains import Chain, chain_oracle, hidden_words
from flexmdm_jax.conformance.enumeration import flexmdm_oracle, mdm_oracle
from flexmdm_jax.conformance.formulas import (
    large_vocabulary,
    large_vocabulary_oracle,
    long_word,
    long_word_oracle,
)
from flexmdm_jax.conformance.judge import (
    Convergence,
    Judgement,
    Sampler,
    convergence,
    judge,
    judge_all,
    table,
)
from flexmdm_jax.conformance.laws import LONG_GAPS, LONG_RUN, P1, VOCABULARY, Law, Spread
from flexmdm_jax.conformance.problems import Problem, problems, tempting

__all__ = [
    "LONG_GAPS",
    "LONG_RUN",
    "P1",
    "VOCABULARY",
    "Chain",
    "Convergence",
    "Judgement",
    "Law",
    "Problem",
    "Sampler",
    "Spread",
    "chain_oracle",
    "convergence",
    "flexmdm_oracle",
    "hidden_words",
    "judge",
    "judge_all",
    "large_vocabulary",
    "large_vocabulary_oracle",
    "long_word",
    "long_word_oracle",
    "mdm_oracle",
    "problems",
    "table",
    "tempting",
]
