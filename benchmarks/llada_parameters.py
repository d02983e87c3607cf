"""Prints what configs/llada_flexmdm.py trains, by group, from shapes alone.

python -m benchmarks.llada_parameters
"""

import math
import pathlib

import jax

from flexmdm_jax.config import load_config_file, read_config
from flexmdm_jax.models.lora import trained_sizes
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.state import Setup, parameter_shapes
from flexmdm_jax.types import Vocabulary

CONFIGS = pathlib.Path(__file__).parents[1] / "configs" / "any.py"


def main():
    config = read_config(load_config_file(str(CONFIGS), "llada_flexmdm.py"))
    vocabulary = Vocabulary(size=126_464, mask=126_336, end=126_081)
    setup = Setup.of(config, vocabulary, make_mesh(config.mesh))
    trained, frozen = parameter_shapes(setup)
    sizes = trained_sizes(trained)
    base = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(frozen))
    print("| parameters | count |\n| --- | --- |")
    for name, size in sizes.items():
        print(f"| {name} | {size:,} |")
    print(f"| **trained** | **{sum(sizes.values()):,}** |\n| frozen base | {base:,} |")


if __name__ == "__main__":
    main()
