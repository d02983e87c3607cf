"""Blocks one after another, and what of them the backward pass computes again to save memory."""

import functools
from collections.abc import Sequence
from typing import Any

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


def stack(
    block: type[nn.Module], num_layers: int, in_axes: Sequence[Any], *, remat: str, unroll: int
) -> Any:
    """Returns a module class that runs blocks one after another, in a loop over their parameters.

    Args:
      block: Of which one is made a layer; called with features and what in_axes tells of.
      num_layers: How many; parameters get a first axis "layers" of this size.
      in_axes: Of each further argument, 0 if it has an entry for each layer, or nn.broadcast.
      remat: A name in REMAT.
      unroll: Blocks per iteration of the loop.
    """
    return nn.scan(
        REMAT[remat](block),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=tuple(in_axes),
        length=num_layers,
        unroll=unroll,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
