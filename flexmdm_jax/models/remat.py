"""What of a block the backward pass computes again, to save memory."""

import functools

import flax.linen as nn
import jax

from flexmdm_jax.attention import ATTENTION_RESULTS


def _keeping(policy):
    return functools.partial(nn.remat, policy=policy, prevent_cse=False)


# What of a block is computed again in the backward pass: nothing but elementwise functions; all
# but matrix products with parameters and attention; everything.
REMAT = {
    "none": lambda block: block,
    "dots": _keeping(
        jax.checkpoint_policies.save_from_both_policies(
            jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
            jax.checkpoint_policies.save_only_these_names(ATTENTION_RESULTS),
        )
    ),
    "full": _keeping(jax.checkpoint_policies.nothing_saveable),
}
