"""Folding adapters into the base they were trained on."""

import functools
import pathlib
from typing import Any

import numpy as np
from flax import traverse_util

from flexmdm_jax.conversion.base import Base, Blocks, copy_files, row_places, write_base
from flexmdm_jax.conversion.layout import Leaf
from flexmdm_jax.models.lora import FACTORS


def merge_adapters(base: Base, trained: Any, scale: float, out: pathlib.Path) -> Any:
    """Writes a base with the adapters added to it and returns the other trained parameters.

    Sums are computed in float32 and rounded to the type of the base.

    Args:
      base: What the adapters were trained on.
      trained: All that was trained, as NumPy arrays.
      scale: Lora.scale.
      out: Base folder to write.

    Raises:
      UserError: If out holds files.
    """
    flat = traverse_util.flatten_dict(trained)
    write_base(
        out,
        functools.partial(copy_files, base.files),
        base.dtype,
        lambda leaf: _merged_blocks(base, leaf, flat, scale),
    )
    rest = {path: value for path, value in flat.items() if path[-1] not in FACTORS}
    return traverse_util.unflatten_dict(rest)


def _merged_blocks(base: Base, leaf: Leaf, trained: dict, scale: float) -> Blocks:
    a, b = (trained.get((*leaf.path[:-1], name)) for name in FACTORS)

    def blocks():
        read = base.reader(leaf.path)
        for layer in range(len(leaf.names)):
            of_layer = (layer,) * leaf.stacked
            for start, stop in row_places(leaf, base.dtype):
                inner = leaf.place(start, stop)
                place = of_layer + inner
                block = read(place)
                if a is not None:
                    columns = (*of_layer, slice(None), *inner[leaf.num_inputs :])
                    product = np.tensordot(a[of_layer], b[columns], 1)
                    block = (block.astype(np.float32) + scale * product).astype(base.dtype)
                yield place, block

    return blocks
