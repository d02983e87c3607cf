"""Shards that the disk has changed: never other tokens, never a crash."""

import random

import numpy as np
import tiny
from effort import either

from flexmdm_jax.data.storage.records import TRAIN
from flexmdm_jax.data.storage.shards import RecordReader
from flexmdm_jax.errors import UserError


def _or_error(call, *arguments):
    try:
        return call(*arguments)
    except UserError as error:
        return str(error)


def _unreadable(shard, expected):
    """Returns how many records are named as unreadable; the others must be as they were."""
    reader = _or_error(RecordReader, [shard])
    if isinstance(reader, str):
        assert str(shard) in reader
        return len(expected)
    assert len(reader) == len(expected)
    errors = 0
    for number, sequence in enumerate(expected):
        found = _or_error(reader.read, [number])
        if isinstance(found, str):
            assert str(shard) in found
            errors += 1
            continue
        np.testing.assert_array_equal(found[0].tokens, sequence.tokens)
        np.testing.assert_array_equal(found[0].fixed, sequence.fixed)
    return errors


def test_flipped_bytes_of_a_shard_are_noticed_wherever_they_are(tmp_path):
    """ArrayRecord keeps hashes of its chunks; this is what stands between a disk and the tokens."""
    dataset = tiny.write_dataset(tmp_path / "d", tiny.texts(30))
    [shard] = dataset.shards[TRAIN]
    data = shard.read_bytes()
    reader = RecordReader([shard])
    expected = reader.read(list(range(len(reader))))
    # Most of a small shard is zeros up to the end of its block; flip what lies near anything else.
    written = [at for at in range(len(data)) if any(data[max(at - 8, 0) : at + 8])]
    rng, noticed = random.Random(0), 0
    trials = either(100, 2000)
    for _ in range(trials):
        flipped = bytearray(data)
        for at in rng.sample(written, rng.choice([1, 1, 1, 4])):
            flipped[at] ^= rng.randrange(1, 256)
        shard.write_bytes(bytes(flipped))
        noticed += _unreadable(shard, expected) > 0
    assert noticed > trials / 2, "most flips hit a record or what leads to it"
    shard.write_bytes(data)
    assert _unreadable(shard, expected) == 0
