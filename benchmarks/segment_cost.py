"""Estimated cost of our kernels, which visit the tiles of the list only."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.cost import Cost
from benchmarks.tpu_schedule import Schedule, read_schedules
from flexmdm_jax.attention import tiles
from flexmdm_jax.attention.blocks import BlockSizes, Layout, current_chip, plan
from flexmdm_jax.attention.pallas_tpu import attention_pallas

# Conditional parts of the kernels in program order, by the flag that runs them; None = once.
FORWARD = (None, tiles.UNMASKED, tiles.MASKED, tiles.LAST)
BACKWARD = (None, tiles.UNMASKED, tiles.MASKED, tiles.LAST, tiles.FLUSH)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The kernels of one shape.

    Attributes:
      layout: Tile sizes and heads per step.
      heads: Query heads.
      forward: Schedule of the forward kernel.
      backward: Schedule of the backward kernel.
    """

    layout: Layout
    heads: int
    forward: Schedule
    backward: Schedule


def compile_segments(
    mesh, folder, rows: int, length: int, heads: int, size: int, blocks: BlockSizes | None = None
) -> Compiled:
    """Returns the schedules of forward and backward in bfloat16."""

    def step(q, k, v, ids, grad):
        attend = lambda q, k, v: attention_pallas(q, k, v, ids, blocks=blocks)  # noqa: E731
        return jax.vjp(attend, q, k, v)[1](grad)

    sharding = NamedSharding(mesh, PartitionSpec())
    x = jax.ShapeDtypeStruct((rows, length, heads, size), jnp.bfloat16, sharding=sharding)
    ids = jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=sharding)
    with jax.set_mesh(mesh):
        layout = plan(rows, length, heads, heads, size, 2, chip=current_chip(), blocks=blocks)
        jax.jit(step).lower(x, x, x, ids, x).compile()
    found = read_schedules(folder, "segment_attention")
    (forward,) = (s for name, s in found.items() if "forward" in name)
    (backward,) = (s for name, s in found.items() if "backward" in name)
    return Compiled(layout, heads, forward, backward)


def segment_costs(compiled: Compiled, segment_ids: np.ndarray) -> dict[str, Cost]:
    """Returns the forward and the backward pass over a batch."""
    return {
        "forward": _cost(compiled, compiled.forward, FORWARD, segment_ids),
        "backward": _cost(compiled, compiled.backward, BACKWARD, segment_ids),
    }


def _cost(compiled: Compiled, schedule: Schedule, parts, segment_ids) -> Cost:
    if len(schedule.parts) != len(parts):
        raise RuntimeError(f"expected {len(parts)} conditional parts, found {schedule.parts}")
    blocks, flush = compiled.layout.blocks, parts is BACKWARD
    more = compiled.layout.length - segment_ids.shape[1]
    bounds = tiles.segment_bounds(jnp.pad(jnp.asarray(segment_ids), ((0, 0), (0, more))))
    work = jax.tree.map(np.asarray, tiles.list_tiles(bounds, blocks.query, blocks.key, flush=flush))
    work = {name: getattr(work, name)[: work.count] for name in ("block", "span", "flush")}
    times = lambda flag: 1 if flag is None else int((work["span"] & flag != 0).sum())  # noqa: E731
    cycles = len(work["span"]) * schedule.step
    cycles += sum(times(flag) * size for flag, size in zip(parts, schedule.parts, strict=True))
    groups = compiled.heads // compiled.layout.kv_heads
    visited = times(tiles.MASKED) + times(tiles.UNMASKED)
    return Cost(
        blocks=f"{blocks.query}×{blocks.key}",
        tiles=visited * compiled.heads,
        bundles_per_tile=cycles * groups / max(visited * compiled.heads, 1),
        cycles=cycles * groups,
        vmem=schedule.vmem,
        bytes_moved=groups * _bytes_per_group(compiled, work, flush, segment_ids.shape[0]),
    )


def _bytes_per_group(compiled: Compiled, work, flush: bool, rows: int) -> int:
    """Returns the bytes a group of heads moves: a block moves when its index changes."""
    layout = compiled.layout
    features = 2 * layout.kv_heads * layout.head_size
    changes = lambda x: 1 + int((x[1:] != x[:-1]).sum())  # noqa: E731
    # With the row in it, for the same slots of two rows are two blocks.
    key_block = (work["block"] >> tiles.ROW_SHIFT).astype(np.int64) << 32
    key_block += work["span"] >> tiles.FLAG_BITS
    per_slot = 2 * 4 + layout.kv_heads * 4 * (2 if flush else 1)
    query_arrays = 3 if flush else 2
    moved = changes(work["block"]) * layout.blocks.query * (query_arrays * features + per_slot)
    moved += changes(key_block) * layout.blocks.key * 2 * features
    if flush:
        moved += changes(work["flush"]) * layout.blocks.key * 2 * features
    # Every result is filled with zeros first.
    return moved + (3 if flush else 1) * rows * layout.length * features
