"""A DiT's tables of the vocabulary: padded on devices, as long as the vocabulary in files.

Matrix units want lengths that are multiples of 128: of a head with 50,259 columns a GPU's compiler
makes padded copies wherever it is multiplied with. Spare rows are 0, have no gradient and no token.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

_MULTIPLE = 128
# Below, copies are small, and the spare rows would be many.
_FEWEST = 8192

# Parameter -> its axis of ids; that of an optimizer's state has the same path at its end.
_TABLES = {("embedding", "embedding"): 0, ("head", "kernel"): -1, ("head", "bias"): -1}


def padded_size(size: int) -> int:
    """Returns the rows of a table for so many ids: a multiple of 128, unless these are few."""
    return size if size < _FEWEST else -(-size // _MULTIPLE) * _MULTIPLE


def _axis(path) -> int | None:
    """Returns a table's axis of ids; None for any other array."""
    names = tuple(str(getattr(key, "key", getattr(key, "name", key))) for key in path[-2:])
    return _TABLES.get(names)


def _placed(x: jax.Array, sharding) -> jax.Array:
    return x if sharding is None else jax.lax.with_sharding_constraint(x, sharding)


def _resized(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    more = [(0, max(size - length, 0)) for size, length in zip(shape, x.shape, strict=True)]
    return jnp.pad(x, more)[tuple(map(slice, shape))]


@functools.partial(jax.jit, static_argnums=(1, 2))
def _resize_all(tables: list[jax.Array], shapes: tuple, shardings: tuple) -> list[jax.Array]:
    """Returns arrays cut or padded with zeros to shapes."""
    return [
        _placed(_resized(x, shape), sharding)
        for x, shape, sharding in zip(tables, shapes, shardings, strict=True)
    ]


def stored_shapes(tree: Any, size: int) -> Any:
    """Returns a tree of arrays, or of their shapes, with shapes of what files hold for its tables.

    Args:
      tree: Parameters of a DiT, or a state of an optimizer or a whole run.
      size: Of the vocabulary.
    """

    def of_leaf(path, x):
        axis = _axis(path)
        if axis is None or x.shape[axis] == size:
            return x
        shape = list(x.shape)
        shape[axis] = size
        sharding = x.sharding
        if isinstance(sharding, NamedSharding):
            # The vocabulary need not divide over devices.
            spec = [*sharding.spec, *[None] * (len(shape) - len(sharding.spec))]
            spec[axis] = None
            sharding = NamedSharding(sharding.mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(tuple(shape), x.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(of_leaf, tree)


def resize_tables(tree: Any, like: Any) -> Any:
    """Returns arrays with the shapes and shardings of `like`, tables cut or padded with zeros."""
    leaves, structure = jax.tree.flatten(tree)
    shapes = structure.flatten_up_to(like)
    pairs = enumerate(zip(leaves, shapes, strict=True))
    differing = [i for i, (x, y) in pairs if x.shape != y.shape]
    if differing:
        resized = _resize_all(
            [leaves[i] for i in differing],
            tuple(shapes[i].shape for i in differing),
            tuple(shapes[i].sharding for i in differing),
        )
        for i, x in zip(differing, resized, strict=True):
            leaves[i] = x
    return structure.unflatten(leaves)
