"""Prints what the retrofits of LLaDA-8B and iLLaDA-8B train, by group, from shapes alone.

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


VOCABULARIES = {
    "llada_flexmdm.py": Vocabulary(size=126_464, mask=126_336, end=126_081),
    # Which id END has makes no difference here.
    "illada_flexmdm.py": Vocabulary(size=155_136, mask=5, end=2),
}


def main():
    for name, vocabulary in VOCABULARIES.items():
        print_sizes(name, vocabulary)


def print_sizes(name: str, vocabulary: Vocabulary) -> None:
    config = read_config(load_config_file(str(CONFIGS), name))
    setup = Setup.of(config, vocabulary, make_mesh(config.mesh))
    trained, frozen = parameter_shapes(setup)
    sizes = trained_sizes(trained)
    base = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(frozen))
    print(f"| parameters of configs/{name} | count |\n| --- | --- |")
    for group, size in sizes.items():
        print(f"| {group} | {size:,} |")
    print(f"| **trained** | **{sum(sizes.values()):,}** |\n| frozen base | {base:,} |\n")


if __name__ == "__main__":
    main()
