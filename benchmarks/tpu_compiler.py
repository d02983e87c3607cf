"""The TPU compiler on a machine without a TPU: topologies to compile for."""

import functools
import os

import jax
import numpy as np

TOPOLOGIES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


@functools.cache
def tpu_devices(generation: str):
    """Returns the devices of a small slice of the generation; none of them is attached."""
    # libtpu asks for these before it looks at the topology's name.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # One process at a time may drive a TPU; compiling needs no such lock.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[generation])
    return topology.devices


def tpu_mesh(generation: str, shape=(1, 1, 1), names=("data", "fsdp", "tensor")):
    """Returns a mesh of the generation's devices."""
    devices = tpu_devices(generation)[: int(np.prod(shape))]
    return jax.sharding.Mesh(np.asarray(devices).reshape(shape), names)
