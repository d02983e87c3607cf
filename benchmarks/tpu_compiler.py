"""Meshes of TPUs that are not attached, for benchmarks and tests that only compile."""

import jax
import numpy as np

from flexmdm_jax.compilation.topology import find_topology

TOPOLOGIES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


def tpu_mesh(generation: str, shape=(1, 1, 1), names=("data", "fsdp", "tensor")):
    """Returns a mesh of the generation's devices."""
    devices = find_topology(TOPOLOGIES[generation]).devices[: int(np.prod(shape))]
    return jax.sharding.Mesh(np.asarray(devices).reshape(shape), names)
