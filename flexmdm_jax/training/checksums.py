"""Sums that tell whether arrays are, bit for bit, what was saved; computed where the arrays are."""

import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp

from flexmdm_jax.files import json_text


def array_checksums(tree: Any) -> dict[str, int]:
    """Returns the checksum of every array of a tree, by its path; costs one pass over the arrays.

    A checksum is Σᵢ mix(wordᵢ ⊕ i·φ) mod 2³² over an array's words of up to 32 bits, with the
    bijection mix of MurmurHash3's finaliser and φ, the odd number nearest 2³² over the golden
    ratio: one word that differs changes it, several go unnoticed once in 2³². A sum has no order,
    so shards are summed where they lie, and the mesh does not matter.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    # One program, whose sums over devices come in one order for every process.
    sums = jax.device_get(_checksums([leaf for _, leaf in flat])).tolist()
    return {jax.tree_util.keystr(path): total for (path, _), total in zip(flat, sums, strict=True)}


def json_checksum(values: Any) -> int:
    """Returns the CRC-32 of what JSON can hold."""
    return zlib.crc32(json_text(values, sort_keys=True).encode())


@jax.jit
def _checksums(arrays: list[jax.Array]) -> jax.Array:
    return jnp.stack([_checksum(array) for array in arrays])


def _checksum(array: jax.Array) -> jax.Array:
    words = jax.lax.bitcast_convert_type(array, _WORDS[array.dtype.itemsize]).astype(jnp.uint32)
    places = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(words.shape):
        stride = math.prod(words.shape[axis + 1 :]) % 2**32
        along = [size if other == axis else 1 for other in range(words.ndim)]
        places = places + jnp.arange(size, dtype=jnp.uint32).reshape(along) * jnp.uint32(stride)
    return jnp.sum(_mix(words ^ (places * jnp.uint32(0x9E3779B9))), dtype=jnp.uint32)


_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def _mix(words: jax.Array) -> jax.Array:
    """Returns words under MurmurHash3's 32-bit finaliser (Appleby, 2011)."""
    words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
    return words ^ (words >> 16)
