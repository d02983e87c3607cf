"""Batches on devices: sent ahead, counted when taken."""

import jax
import numpy as np
import tiny

from flexmdm_jax.config import MeshConfig
from flexmdm_jax.data.batches.pipeline import train_batches
from flexmdm_jax.process import Process
from flexmdm_jax.sharding import batch_sharding, make_mesh
from flexmdm_jax.training.feed import DeviceBatches, corrupted


def _host_batches(dataset):
    return train_batches(
        dataset, Process(dataset.vocabulary), length=tiny.LENGTH, batch_size=8, seed=0
    )


def test_the_state_counts_what_was_taken_not_what_was_sent(tiny_dataset):
    expected = _host_batches(tiny_dataset)
    sharding = batch_sharding(make_mesh(MeshConfig()))
    feed = DeviceBatches(_host_batches(tiny_dataset), sharding, ahead=3)
    assert feed.get_state() == {"examples": 0}
    for taken in range(1, 4):
        batch, host = next(feed), next(expected)
        assert feed.get_state() == {"examples": 8 * taken}
        assert all(x.sharding == sharding for x in jax.tree.leaves(batch))
        for a, b in zip(*map(jax.tree.leaves, (batch, corrupted(host))), strict=True):
            np.testing.assert_array_equal(jax.device_get(a), b)
    fresh = DeviceBatches(_host_batches(tiny_dataset), sharding)
    next(fresh)
    fresh.set_state(feed.get_state())
    np.testing.assert_array_equal(jax.device_get(next(fresh).x.tokens), next(expected)["tokens"])
