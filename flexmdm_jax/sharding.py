"""The device mesh and the one table from logical axes to mesh axes."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax.core import meta
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flexmdm_jax.config import MeshConfig
from flexmdm_jax.errors import UserError
from flexmdm_jax.fields import nearest
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


def parse_mesh(text: str) -> MeshConfig:
    """Returns the sizes written as `data=2,tensor=-1`; axes that are left out have size 1.

    Raises:
      UserError: If an axis or a size is none, an axis comes twice, or the sizes do not go together.
    """
    axes = [field.name for field in dataclasses.fields(MeshConfig)]
    sizes = {}
    for part in text.split(","):
        axis, _, size = part.partition("=")
        if axis not in axes:
            raise UserError(f"--mesh={text}: unknown axis {axis!r}{nearest(axis, axes)}")
        if axis in sizes:
            raise UserError(f"--mesh={text}: {axis} is given twice; leave one out")
        try:
            sizes[axis] = int(size)
        except ValueError:
            raise UserError(
                f"--mesh={text}: {size!r} is no number of devices; write {axis}=8, or {axis}=-1 "
                "for all that the others leave"
            ) from None
    try:
        return MeshConfig(**dict.fromkeys(axes, 1) | sizes)
    except ValueError as error:
        raise UserError(f"--mesh={text}: {error}") from None


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the ("data", "fsdp", "tensor") mesh over all devices.

    Devices of several slices are laid out so that only the axis "data" crosses between slices.
    Entry points make the mesh the ambient one (jax.set_mesh): attention kernels, which XLA cannot
    cut up by itself, take it from there.

    Args:
      config: Sizes of the axes.
      devices: None takes all there are; others are for compiling ahead of time.

    Raises:
      UserError: If the sizes do not multiply to the number of devices, or slices do not divide
        the axis "data".
    """
    devices = jax.devices() if devices is None else list(devices)
    asked = dataclasses.astuple(config)
    known = math.prod(size for size in asked if size != -1)
    sizes = tuple(len(devices) // known if size == -1 else size for size in asked)
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"config.mesh: data x fsdp x tensor = {' x '.join(map(str, asked))} does not fit "
            f"{len(devices)} devices; the product must be their number, and one may be -1"
        )
    # The compiler propagates shardings from those of inputs and outputs.
    types = (AxisType.Auto,) * len(sizes)
    return Mesh(_lay_out(sizes, devices), (*BATCH_AXES, TENSOR_AXIS), axis_types=types)


def check_slices(data: int, slices: int) -> None:
    """Raises UserError unless the axis "data" alone can cross between slices.

    Args:
      data: Size of the axis.
      slices: How many there are; of GPUs, each host is one.
    """
    if data % slices:
        raise UserError(
            f"config.mesh.data = {data} does not split over {slices} slices; only this axis may "
            "cross between slices, so make it a multiple of their number"
        )


def _lay_out(sizes: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """Returns the devices as an array of the mesh's shape, neighbours close to each other."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    data, *rest = sizes
    check_slices(data, slices)
    return mesh_utils.create_hybrid_device_mesh(
        (data // slices, *rest), (slices, 1, 1), devices, allow_split_physical_axes=True
    )


def num_batch_shards(mesh: Mesh) -> int:
    """Returns over how many devices the rows of a batch are spread."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


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


def spread_rows(mesh: Mesh, fn: Callable) -> Callable:
    """Returns fn(params, *rows) jitted, each device doing its rows; every device gets all results.

    So every process of a run can read them. Numbers among the rows concern all of them.
    """
    spread = lambda x: jax.lax.with_sharding_constraint(x, batch_sharding(mesh)) if x.ndim else x  # noqa: E731

    def run(params, *rows):
        rows = jax.tree.map(spread, rows)
        return jax.lax.with_sharding_constraint(fn(params, *rows), replicated(mesh))

    return jax.jit(run)
