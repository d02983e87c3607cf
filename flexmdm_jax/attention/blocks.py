"""Tile sizes and head groups of the TPU kernels, by TPU generation."""

import dataclasses

from jax.experimental.pallas import tpu as pltpu

from flexmdm_jax.attention import tiles


class DoesNotFitError(ValueError):
    """What a kernel keeps on a chip has no room there, however much memory the chip has."""


class TooManyRowsError(DoesNotFitError):
    """Fewer rows per device would fit."""


@dataclasses.dataclass(frozen=True)
class BlockSizes:
    """Slots per tile of scores.

    Attributes:
      query: A multiple of 128.
      key: A multiple of query.

    Raises:
      ValueError: If either is no such multiple.
    """

    query: int
    key: int

    def __post_init__(self):
        if self.query <= 0 or self.query % 128:
            raise ValueError(f"blocks.query = {self.query}: give a positive multiple of 128")
        if self.key <= 0 or self.key % self.query:
            raise ValueError(
                f"blocks.key = {self.key}: give a positive multiple of blocks.query = {self.query}"
            )


@dataclasses.dataclass(frozen=True)
class Chip:
    """What the kernels ask of a TPU generation.

    Attributes:
      blocks: Tile sizes.
      vmem: Bytes of vector memory the kernels may take.
      smem: Bytes of scalar memory the lists of tiles may take.
      features: Upper bound on the query features of a group of heads, which bounds compile time.
      cores: Cores a device has; groups of heads are dealt out to them.
    """

    blocks: BlockSizes
    vmem: int
    smem: int = 800 << 10
    features: int = 1024
    cores: int = 1


# Vector memory is 16 MiB on v4, 64 MiB on v5p and 128 MiB on v5e and v6e; the compiler keeps a
# share. Tile sizes are tuned for v5e (docs/performance.md), and taken over by the others.
CHIPS = {
    "v4": Chip(BlockSizes(128, 256), vmem=15 << 20, cores=2),
    "v5e": Chip(BlockSizes(128, 256), vmem=100 << 20),
    "v5p": Chip(BlockSizes(128, 256), vmem=50 << 20, cores=2),
    "v6e": Chip(BlockSizes(128, 256), vmem=100 << 20),
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a call is cut up.

    Attributes:
      blocks: Tile sizes.
      length: Slots of a row after padding to whole tiles.
      head_size: Features of a head after padding.
      kv_heads: Heads of k and v one grid step handles.
      vmem: Bytes of vector memory the kernels may take.
    """

    blocks: BlockSizes
    length: int
    head_size: int
    kv_heads: int
    vmem: int


def current_chip() -> Chip:
    """Returns the limits of the ambient mesh's devices, or else of the default device.

    Raises:
      ValueError: If that is no TPU of a generation in CHIPS.
    """
    generation = str(pltpu.get_tpu_info().chip_version)
    if generation not in CHIPS:
        raise ValueError(
            f"the pallas attention has no tile sizes for TPU {generation}; it knows "
            f"{', '.join(CHIPS)}; choose implementation='xla'"
        )
    return CHIPS[generation]


def plan(
    rows: int,
    length: int,
    heads: int,
    kv_heads: int,
    head_size: int,
    itemsize: int,
    *,
    chip: Chip,
    blocks: BlockSizes | None = None,
) -> Layout:
    """Returns tile sizes no longer than the row and the largest group of heads that fits.

    Args:
      rows: Rows of the batch on one device.
      length: Slots of a row.
      heads: Query heads.
      kv_heads: Heads of k and v; divides heads.
      head_size: Features per head.
      itemsize: Bytes per element of q, k and v.
      chip: Its limits.
      blocks: Tile sizes; None takes the chip's.

    Raises:
      TooManyRowsError: If the list of tiles does not fit on chip.
      DoesNotFitError: If one head's accumulators do not.
    """
    blocks = blocks or chip.blocks
    # Two heads of 64 fill a register together; without a partner a head fills it alone.
    size = 64 if head_size <= 64 and kv_heads % 2 == 0 else -(-head_size // 128) * 128
    rounded = max(-(-length // 128), 1) * 128
    if rounded < blocks.key:
        blocks = BlockSizes(128, rounded)
    length = -(-max(length, 1) // blocks.key) * blocks.key
    _check_scalar_memory(rows, length, blocks, chip)
    queries = heads // kv_heads
    fitting = [
        n
        for n in range(1, kv_heads + 1)
        if kv_heads % n == 0
        and n * size % 128 == 0
        and _vector_memory(length, n * size, queries, itemsize, blocks) <= chip.vmem
    ]
    if not fitting:
        raise DoesNotFitError(
            f"attention over rows of {length} slots needs "
            f"{_vector_memory(length, max(size, 128), queries, itemsize, blocks) >> 20} MiB of "
            f"vector memory and the chip gives {chip.vmem >> 20} MiB; "
            "shorten the rows or choose implementation='xla'"
        )
    small = [n for n in fitting if n * size * queries <= chip.features] or fitting[:1]
    shared_out = [n for n in small if kv_heads // n % chip.cores == 0] or small
    return Layout(blocks, length, size, shared_out[-1], chip.vmem)


def _vector_memory(length, kv_features, queries, itemsize, blocks) -> int:
    """Returns the bytes the backward kernel, the larger one, holds: accumulators and blocks."""
    features = kv_features * queries
    accumulators = 4 * (2 * length * kv_features + features * blocks.query)
    per_slot = 3 * features * blocks.query + kv_features * 4 * blocks.key
    spilled_registers = 2 << 20
    return accumulators + 2 * itemsize * per_slot + spilled_registers


def _check_scalar_memory(rows, length, blocks, chip):
    needed = 12 * tiles.max_steps(rows, length, blocks.query, blocks.key, flush=True)
    if needed > chip.smem:
        raise TooManyRowsError(
            f"the list of tiles of {rows} rows of {length} slots may take {needed >> 10} KiB of "
            f"scalar memory and the chip gives {chip.smem >> 10} KiB; use fewer rows per device"
        )
