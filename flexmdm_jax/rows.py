"""Work that each device does on the rows it holds, without a word to the others."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec

from flexmdm_jax.types import BATCH_AXES


def free_axes(mesh: Mesh | AbstractMesh) -> list[str]:
    """Returns the axes of a mesh that the compiler has, not an outer shard_map."""
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return [name for name, kind in kinds if kind != AxisType.Manual]


def axes_of_rows(mesh: Mesh | AbstractMesh, num_rows: int) -> tuple[str, ...]:
    """Returns the free axes that rows are spread over; none if they do not divide their number."""
    axes = tuple(name for name in BATCH_AXES if name in free_axes(mesh))
    return () if num_rows % math.prod(mesh.shape[name] for name in axes) else axes


def map_rows(fn: Callable[..., Any], *rows: Any) -> Any:
    """Returns jax.vmap(fn)(*rows), computed by each device on its rows of the ambient mesh.

    Loops in fn end when those of the device's own rows have. Spread by the compiler they would ask
    all devices before each round, and XLA's CPU does not order such questions among a program's
    others: processes may wait for each other for ever. Without an ambient mesh (jax.set_mesh), or
    with rows that it does not divide, the compiler has its way.

    Args:
      fn: A function of one row of each array.
      *rows: Arrays whose first axis is the batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = axes_of_rows(mesh, len(rows[0]))
    if not axes:
        return jax.vmap(fn)(*rows)
    spec = PartitionSpec(axes)
    mapped = jax.shard_map(jax.vmap(fn), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return mapped(*rows)
