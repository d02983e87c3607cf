"""What one pass of attention over a batch is estimated to take on one chip."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Cost:
    """Estimates from the compiler's schedule.

    Attributes:
      blocks: Tile sizes, for the table.
      tiles: Tiles visited, one head each.
      bundles_per_tile: Instruction bundles per tile and head, steps' overhead included.
      cycles: Of the whole pass.
      vmem: Bytes of vector memory.
      bytes_moved: To and from HBM by the kernel.
    """

    blocks: str
    tiles: int
    bundles_per_tile: float
    cycles: int
    vmem: int
    bytes_moved: int

    def __add__(self, other):
        """Returns two kernels run one after the other over the same tiles."""
        return Cost(
            blocks=self.blocks,
            tiles=self.tiles,
            bundles_per_tile=self.bundles_per_tile + other.bundles_per_tile,
            cycles=self.cycles + other.cycles,
            vmem=max(self.vmem, other.vmem),
            bytes_moved=self.bytes_moved + other.bytes_moved,
        )
