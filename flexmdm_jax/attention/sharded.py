"""Running a function of (q, k, v, segment_ids) on each device's rows and heads."""

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from flexmdm_jax.rows import axes_of_rows, free_axes
from flexmdm_jax.types import BATCH_AXES, TENSOR_AXIS


def shard_attention(
    attend: Callable,
    q: Float[Array, "b l h d"],
    k: Float[Array, "b l hk d"],
    v: Float[Array, "b l hk d"],
    segment_ids: Int[Array, "b l"],
) -> Float[Array, "b l h d"]:
    """Returns attend(q, k, v, segment_ids), computed by each device on the part it holds.

    XLA cannot cut a kernel up by itself. Rows lie along the axes "data" and "fsdp" of the ambient
    mesh (jax.set_mesh) and heads along "tensor"; nothing is gathered. A batch that these axes do
    not divide (the one row a model is initialised with) is computed by every device in full.
    Without an ambient mesh attend is called as it is.

    Args:
      attend: A function of the four arrays.
      q: Queries.
      k: Keys.
      v: Values.
      segment_ids: 0 at padding.

    Raises:
      ValueError: If the axis "tensor" does not divide the heads of k and v.
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = free_axes(mesh)
    if not {*BATCH_AXES, TENSOR_AXIS} & {*free}:
        return attend(q, k, v, segment_ids)
    heads = TENSOR_AXIS if TENSOR_AXIS in free else None
    if heads and k.shape[2] % mesh.shape[heads]:
        raise ValueError(
            f"k and v have {k.shape[2]} heads and the mesh axis {heads!r} has size "
            f"{mesh.shape[heads]}; choose a size that divides the heads"
        )
    rows = axes_of_rows(mesh, q.shape[0]) or None
    features = PartitionSpec(rows, None, heads, None)
    return jax.shard_map(
        attend,
        mesh=mesh,
        in_specs=(features, features, features, PartitionSpec(rows, None)),
        out_specs=features,
        # Kernels do not say along which axes their results vary.
        check_vma=False,
    )(q, k, v, segment_ids)
