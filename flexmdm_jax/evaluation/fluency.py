"""Generative perplexity: how surprising texts are to an autoregressive model, in both protocols."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from flexmdm_jax.evaluation.bootstrap import with_error

# Texts of so many tokens are left out of the mean over texts (the paper, appendix E.1).
SHORT = 10


def generative_perplexity(
    nats: Sequence[Float[np.ndarray, "_"]], *, seed: int = 0
) -> dict[str, float]:
    """Returns the perplexity of texts under a reference model, with standard errors.

    `generative_perplexity` is exp of the mean over all tokens, as SEDD's and MDLM's tables have it.
    `generative_perplexity_per_text` is the mean over texts of exp of a text's own mean, without
    those of at most 10 tokens, as the paper's Figure 4c has it: a few texts of very high perplexity
    decide it. `too_short` is the share of texts that it leaves out, `unscored` that of those
    without a token to score, which both leave out.

    Args:
      nats: -log p of the tokens of each text, the reference's own, without the first, which is
        given; of a text without tokens, none.
      seed: Decides the draws behind the errors.
    """
    sums = np.array([values.sum() for values in nats])
    tokens = np.array([len(values) for values in nats])
    # The first token, which is given, is one of a text's.
    long = tokens + 1 > SHORT
    own = np.exp(sums / np.maximum(tokens, 1))

    def corpus(weights) -> float:
        total = (weights * tokens).sum()
        return float(np.exp((weights * sums).sum() / total)) if total else float("nan")

    def per_text(weights) -> float:
        total = weights[long].sum()
        return float((weights * own)[long].sum() / total) if total else float("nan")

    figures = {"too_short": float(np.mean(~long)), "unscored": float(np.mean(tokens == 0))}
    for name, statistic in (("", corpus), ("_per_text", per_text)):
        figures |= with_error(f"generative_perplexity{name}", statistic, len(nats), seed=seed)
    return figures
