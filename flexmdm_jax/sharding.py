"""The device mesh and the one table from logical axes to mesh axes."""

import jax
import numpy as np
from flax.core import meta
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flexmdm_jax.config import MeshConfig
from flexmdm_jax.errors import UserError
from flexmdm_jax.types import BATCH_AXES, TENSOR_AXIS

# Logical axes of parameters -> mesh axes.
RULES = {
    "vocab": TENSOR_AXIS,
    "heads": TENSOR_AXIS,
    "mlp": TENSOR_AXIS,
    "embed": "fsdp",
    "layers": None,
    "rank": None,
    "condition": None,
    "condition_in": None,
    None: None,
}


def make_mesh(config: MeshConfig) -> Mesh:
    """Returns the ("data", "fsdp", "tensor") mesh over all devices.

    Entry points make it the ambient one (jax.set_mesh): attention kernels, which XLA cannot cut up
    by itself, take it from there.

    Raises:
      UserError: If the sizes do not multiply to the number of devices.
    """
    devices = jax.devices()
    sizes = [config.data, config.fsdp, config.tensor]
    known = int(np.prod([size for size in sizes if size != -1]))
    sizes = [len(devices) // known if size == -1 else size for size in sizes]
    if int(np.prod(sizes)) != len(devices):
        raise UserError(
            f"config.mesh: {' x '.join(map(str, sizes))} devices do not fit the "
            f"{len(devices)} there are; set one of data, fsdp, tensor to -1"
        )
    # The compiler propagates shardings from those of inputs and outputs.
    types = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes), (*BATCH_AXES, TENSOR_AXIS), axis_types=types)


def num_batch_shards(mesh: Mesh) -> int:
    """Returns over how many devices the rows of a batch are spread."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(mesh: Mesh, abstract_state):
    """Returns a sharding for every leaf of a tree whose parameters carry logical axis names.

    An axis whose length the mesh axis does not divide stays whole.
    """

    def fit(leaf, names):
        axes = [RULES[name] for name in names]
        fitting = [
            axis if axis and length % mesh.shape[axis] == 0 else None
            for axis, length in zip(axes, leaf.shape, strict=False)
        ]
        return NamedSharding(mesh, PartitionSpec(*fitting))

    names = meta.get_partition_spec(abstract_state)
    return jax.tree.map(fit, meta.unbox(abstract_state), names)
