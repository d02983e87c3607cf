"""Peak speed and memory of accelerators, one line a chip; the platform a program is for."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX counts them.

    Attributes:
      kind: The device_kind JAX reports.
      peak_flops: bfloat16 operations per second, dense.
      hbm: Bytes of memory, as sold; the compiler keeps a little for itself.
    """

    kind: str
    peak_flops: float
    hbm: int


# TPUs: "System architecture" pages of the Cloud TPU documentation. GPUs: NVIDIA's data sheets,
# without sparsity. A v4 or v5p device is a chip: its two cores work as one.
CHIPS = {
    "v4": Chip("TPU v4", 275e12, 32 << 30),
    "v5e": Chip("TPU v5 lite", 197e12, 16 << 30),
    "v5p": Chip("TPU v5", 459e12, 95 << 30),
    "v6e": Chip("TPU v6 lite", 918e12, 32 << 30),
    "a100": Chip("NVIDIA A100-SXM4-80GB", 312e12, 80 << 30),
    "a100-40": Chip("NVIDIA A100-SXM4-40GB", 312e12, 40 << 30),
    "h100": Chip("NVIDIA H100 80GB HBM3", 989e12, 80 << 30),
    "h200": Chip("NVIDIA H200", 989e12, 141 << 30),
    "b200": Chip("NVIDIA B200", 2250e12, 180 << 30),
}


def chip_of(kind: str) -> Chip | None:
    """Returns the chip that JAX calls by a device_kind; None if its peak is not known."""
    # JAX has called v5p both "TPU v5" and "TPU v5p".
    kind = {"TPU v5p": "TPU v5", "TPU v5e": "TPU v5 lite", "TPU v6e": "TPU v6 lite"}.get(kind, kind)
    return next((chip for chip in CHIPS.values() if chip.kind == kind), None)


def current_platform() -> str:
    """Returns "cpu", "gpu" or "tpu": of the ambient mesh, or else of the default device."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device is not None else jax.default_backend()


def current_device_kind() -> str:
    """Returns what JAX calls the devices of the ambient mesh, or else the default device."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (device or jax.devices()[0]).device_kind
