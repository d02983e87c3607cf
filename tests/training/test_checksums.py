"""Checksums notice what a plain loop notices, on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flexmdm_jax.training.checksums import array_checksums, json_checksum


def _mix(word):
    word = (word ^ (word >> 16)) * 0x85EBCA6B % 2**32
    word = (word ^ (word >> 13)) * 0xC2B2AE35 % 2**32
    return word ^ (word >> 16)


def _by_a_plain_loop(array):
    words = array.reshape(-1).view(f"u{array.dtype.itemsize}").tolist()
    mixed = (_mix(word ^ (place * 0x9E3779B9 % 2**32)) for place, word in enumerate(words))
    return sum(mixed) % 2**32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint32", "int8"])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 4)])
def test_a_sum_over_words_and_places(dtype, shape):
    array = np.asarray(np.random.default_rng(0).normal(size=shape) * 50).astype(jnp.dtype(dtype))
    assert array_checksums({"a": jnp.asarray(array)}) == {"['a']": _by_a_plain_loop(array)}


def test_every_flipped_bit_and_every_swap_is_noticed():
    array = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    array[0] = 0
    truth = array_checksums([jnp.asarray(array)])
    bits = array.view(np.uint32)
    for place in np.ndindex(array.shape):
        for bit in range(32):
            bits[place] ^= np.uint32(1 << bit)
            assert array_checksums([jnp.asarray(array)]) != truth
            bits[place] ^= np.uint32(1 << bit)
    assert array_checksums([jnp.asarray(array[::-1])]) != truth
    assert array_checksums([jnp.asarray(array)]) == truth


def test_damage_of_the_same_byte_of_several_words_is_noticed():
    """Exponents flipped alone would cancel in a sum that is linear in the words, once in 256."""
    array = np.zeros(64, np.float32)
    truth = array_checksums([jnp.asarray(array)])
    source = np.random.default_rng(2)
    for _ in range(300):
        damaged = array.copy()
        at = source.choice(64, size=5, replace=False)
        damaged.view(np.uint32)[at] ^= source.integers(1, 256, 5).astype(np.uint32) << 24
        assert array_checksums([jnp.asarray(damaged)]) != truth


def test_shards_do_not_matter():
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    array = jnp.arange(64, dtype=jnp.float32).reshape(8, 8)
    sums = {
        spec: array_checksums(jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec))))
        for spec in ((), ("a",), (None, "b"), ("a", "b"))
    }
    assert len({tuple(found.values()) for found in sums.values()}) == 1


def test_json_is_summed_whatever_the_order_of_its_keys():
    assert json_checksum({"a": 1, "b": [2]}) == json_checksum({"b": [2], "a": 1})
    assert json_checksum({"a": 1}) != json_checksum({"a": 2})
