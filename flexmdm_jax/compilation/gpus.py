"""GPUs by name, as devices that the CUDA compiler knows and nobody has to own."""

import dataclasses
import functools
import os
from typing import Any

import jax

from flexmdm_jax.chips import CHIPS
from flexmdm_jax.errors import UserError, first_line

# What JAX takes of a card's memory unless XLA_CLIENT_MEM_FRACTION says otherwise.
_MEMORY_FRACTION = 0.75


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What the compiler asks about a card.

    Attributes:
      capability: The compute capability's major number.
      features: Which instructions beside those of the capability there are.
      cores: Streaming multiprocessors.
      units: That add and multiply float32, of each core.
      shared: Bytes of shared memory of a core; a block gets 1 KiB less.
      cache: Bytes of the L2 cache.
      clock: In GHz.
      bandwidth: Bytes per second of the memory.
      memory: Bytes that the driver leaves to programs.
    """

    capability: int
    features: str
    cores: int
    units: int
    shared: int
    cache: int
    clock: float
    bandwidth: int
    memory: int

    def target(self, kind: str) -> str:
        """Returns XLA's GpuTargetConfigProto as text; kind is what JAX calls the card."""
        return f"""
            gpu_device_info {{
              threads_per_block_limit: 1024
              threads_per_warp: 32
              shared_memory_per_block: {48 << 10}
              shared_memory_per_core: {self.shared}
              shared_memory_per_block_optin: {self.shared - (1 << 10)}
              threads_per_core_limit: 2048
              core_count: {self.cores}
              fpus_per_core: {self.units}
              block_dim_limit_x: {2**31 - 1}
              block_dim_limit_y: 65535
              block_dim_limit_z: 65535
              memory_bandwidth: {self.bandwidth}
              l2_cache_size: {self.cache}
              clock_rate_ghz: {self.clock}
              device_memory_size: {self.memory}
              cuda_compute_capability {{
                major: {self.capability} feature_extension: {self.features}
              }}
              registers_per_core_limit: 65536
              registers_per_block_limit: 65536
            }}
            platform_name: "CUDA"
            dnn_version_info {{ major: 9 minor: 20 }}
            runtime_version {{ major: 13 }}
            device_description_str: "{kind}"
        """


# "Technical Specifications" of the CUDA C++ programming guide for the limits of a capability,
# NVIDIA's data sheets of the SXM cards for the rest; memory and cache as the driver reports them,
# of openxla/xla, xla/backends/gpu/target_config/specs.
GPUS = {
    "a100": Gpu(8, "NONE", 108, 64, 164 << 10, 40 << 20, 1.41, 2_039_000_000_000, 85_100_068_864),
    "h100": Gpu(
        9,
        "ACCELERATED_FEATURES",
        *(132, 128, 228 << 10, 50 << 20, 1.98),
        bandwidth=3_352_000_000_000,
        memory=84_942_979_072,
    ),
    "h200": Gpu(
        9,
        "ACCELERATED_FEATURES",
        *(132, 128, 228 << 10, 50 << 20, 1.98),
        bandwidth=4_800_000_000_000,
        memory=151_397_597_184,
    ),
    "b200": Gpu(
        10,
        "ACCELERATED_FEATURES",
        *(148, 128, 228 << 10, 132_644_864, 1.965),
        bandwidth=7_672_000_000_000,
        memory=191_514_411_008,
    ),
}
# Cards of a host that NVLink joins, or some of them.
SIZES = (1, 2, 4, 8)


@functools.cache
def gpu_devices(generation: str, size: int, hosts: int) -> tuple[Any, ...]:
    """Returns the devices of some hosts with as many cards each.

    Raises:
      UserError: If the CUDA compiler is not installed.
    """
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(
            platform="cuda",
            topology_name="",
            target_config=GPUS[generation].target(CHIPS[generation].kind),
            # Slices, which are what fast links join, hosts of each, cards of each.
            topology=f"{hosts}x1x{size}",
        )
    except (jax.errors.JaxRuntimeError, ImportError, RuntimeError, KeyError) as error:
        version = jax.__version__
        raise UserError(
            f"the CUDA compiler cannot be loaded ({first_line(error)}); install it with: "
            f"pip install jax-cuda13-plugin=={version} nvidia-cuda-nvcc nvidia-nvvm"
        ) from None
    return tuple(found.devices)


def usable_memory(generation: str) -> int:
    """Returns the bytes of a card that JAX takes, by the variables that a run would obey.

    Raises:
      UserError: If XLA_CLIENT_MEM_FRACTION is no share above 0.
    """
    names = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
    name = next((name for name in names if os.environ.get(name)), None)
    text = os.environ[name] if name else str(_MEMORY_FRACTION)
    try:
        fraction = float(text)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction <= 1:
        raise UserError(f"{name}={text}: give a share of the card's memory, 0.9 for example")
    return int(fraction * GPUS[generation].memory)
