"""TPU slices and GPUs by name, as devices that compilers know and nobody has to own."""

import dataclasses
import functools
import os
import re
from typing import Any

import jax
from jax.sharding import Mesh

from flexmdm_jax.chips import CHIPS, Chip
from flexmdm_jax.compilation.gpus import GPUS, SIZES, gpu_devices, usable_memory
from flexmdm_jax.config import MeshConfig
from flexmdm_jax.errors import UserError, first_line
from flexmdm_jax.sharding import check_slices, make_mesh

# What Cloud TPU calls v5e-16 or v5p-16: chips for the first, TensorCores (two a chip) for v4, v5p.
_SHAPES_2D = {
    4: "2x2",
    8: "2x4",
    16: "4x4",
    32: "4x8",
    64: "8x8",
    128: "8x16",
    256: "16x16",
}
_SHAPES_3D = {
    8: "2x2x1",
    16: "2x2x2",
    32: "2x2x4",
    64: "2x4x4",
    128: "4x4x4",
    256: "4x4x8",
    512: "4x8x8",
    1024: "8x8x8",
}
_SHAPES = {"v4": _SHAPES_3D, "v5e": _SHAPES_2D, "v5p": _SHAPES_3D, "v6e": _SHAPES_2D}
# Two cores of a v4 chip answer as one device, as they do on Cloud TPU.
_OPTIONS = {"v4": {"chip_config_name": "megacore"}}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
      name: As it was asked for.
      generation: v5e or h100, for example.
      devices: Of all slices.
      chip: What each of them is.
      memory: Bytes of each that a program may take; None if the compiler itself refuses what takes
        more.
      slices: Groups of devices that fast links join: of GPUs, hosts.
    """

    name: str
    generation: str
    devices: tuple[Any, ...]
    chip: Chip
    memory: int | None = None
    slices: int = 1

    def mesh(self, config: MeshConfig) -> Mesh:
        """Returns make_mesh() of the devices, which refuses what a run on them would refuse."""
        mesh = make_mesh(config, self.devices)
        # GPUs that a compiler alone knows do not tell their slice; those of a run do.
        check_slices(mesh.shape["data"], self.slices)
        return mesh


def find_topology(name: str) -> Topology:
    """Returns the devices of a TPU slice or of hosts with GPUs.

    Slices are `v5e-16`, `v5p:4x4x4` or `2*v5e-16` (two of them); `v5e-1` is a single chip.
    `h100-8` is a host with 8 cards, `2*h100-8` two such hosts.

    Raises:
      UserError: If there is no such slice or GPU, or its compiler is not installed.
    """
    match = re.fullmatch(r"(?:(\d+)\*)?([a-z]\d\w*)(?:-(\d+)|:(\d+(?:x\d+)*))", name)
    number, generation, size, shape = match.groups() if match else (None,) * 4
    number = int(number or 1)
    if generation in GPUS and size and number:
        return _find_gpus(name, generation, int(size), number)
    if generation not in _SHAPES or not number:
        raise UserError(
            f"unknown topology {name!r}; write v5e-16, v5p:4x4x4 or 2*v5e-16 (two slices), "
            f"with one of {', '.join(_SHAPES)}; or h100-8 or 2*h100-8 (two hosts), with one of "
            f"{', '.join(GPUS)}"
        )
    alone = size == "1" and number == 1
    if not shape:
        shapes = _SHAPES[generation]
        shape = shapes[min(shapes)] if alone else shapes.get(int(size))
    if not shape:
        raise UserError(
            f"unknown topology {name!r}: {generation} comes as "
            f"{', '.join(f'{generation}-{known}' for known in _SHAPES[generation])}"
        )
    devices = _devices(generation, shape, number, name)
    devices = devices[:1] if alone else devices
    return Topology(name, generation, devices, CHIPS[generation], slices=number)


def _find_gpus(name: str, generation: str, size: int, hosts: int) -> Topology:
    if size not in SIZES:
        raise UserError(
            f"unknown topology {name!r}: a host has "
            f"{', '.join(f'{generation}-{known}' for known in SIZES)}; write 2*{generation}-8 for "
            "two hosts"
        )
    devices = gpu_devices(generation, size, hosts)
    memory = usable_memory(generation)
    return Topology(name, generation, devices, CHIPS[generation], memory, slices=hosts)


@functools.cache
def _devices(generation: str, shape: str, slices: int, name: str) -> tuple[Any, ...]:
    # libtpu asks for these before it looks at the topology's name.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # One process at a time may drive a TPU; compiling needs no such lock.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    options = dict(_OPTIONS.get(generation, {}))
    if slices > 1:
        options["num_slices"] = slices
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{generation}:{shape}", **options
        )
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise UserError(f"topology {name!r}: {first_line(error)}") from None
    except (ImportError, RuntimeError, FileNotFoundError) as error:
        raise UserError(
            f"the TPU compiler cannot be loaded ({first_line(error)}); "
            "install it with: pip install libtpu"
        ) from None
    return tuple(found.devices)
