"""Estimated cost of JAX's splash attention with segment ids, which computes every tile."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.cost import Cost
from benchmarks.tpu_schedule import read_schedules


@dataclasses.dataclass(frozen=True)
class SplashBlocks:
    """Slots per block of queries, of keys, and of keys per inner product."""

    query: int
    key: int
    compute: int
    fused: bool


def candidates(length: int) -> list[SplashBlocks]:
    """Returns the block sizes worth trying; the best for each direction is compared with."""
    sizes = [(1024, 1024, 1024), (1024, 1024, 512), (512, 1024, 1024), (512, 512, 512)]
    clipped = {tuple(min(x, length) for x in size) for size in sizes}
    return [SplashBlocks(*size, fused) for size in sorted(clipped) for fused in (True, False)]


def compile_splash(mesh, blocks: SplashBlocks, rows: int, length: int, heads: int, size: int):
    """Compiles forward and backward in bfloat16; the schedules are left in the dump folder."""
    bq, bk, bc = blocks.query, blocks.key, blocks.compute
    separate = (None, None) if blocks.fused else (bq, bk)
    sizes = splash.BlockSizes(
        block_q=bq,
        block_kv=bk,
        block_kv_compute=bc,
        block_q_dkv=bq,
        block_kv_dkv=bk,
        block_kv_dkv_compute=bc,
        block_q_dq=separate[0],
        block_kv_dq=separate[1],
        use_fused_bwd_kernel=blocks.fused,
    )
    mask = splash.MultiHeadMask([splash.FullMask((length, length))] * heads)
    kernel = splash.make_splash_mha_single_device(mask, block_sizes=sizes)

    def attend(q, k, v, ids):
        return jax.vmap(lambda q, k, v, s: kernel(q, k, v, segment_ids=splash.SegmentIds(s, s)))(
            q, k, v, ids
        )

    def step(q, k, v, ids, grad):
        return jax.vjp(lambda q, k, v: attend(q, k, v, ids), q, k, v)[1](grad)

    sharding = NamedSharding(mesh, PartitionSpec())
    x = jax.ShapeDtypeStruct((rows, heads, length, size), jnp.bfloat16, sharding=sharding)
    ids = jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=sharding)
    jax.jit(step).lower(x, x, x, ids, x).compile()


def splash_costs(mesh, folder, rows, length, heads, size) -> dict[str, Cost]:
    """Returns the cheapest forward and the cheapest backward over the candidates."""
    costs = {"forward": [], "backward": []}
    for blocks in candidates(length):
        compile_splash(mesh, blocks, rows, length, heads, size)
        found = read_schedules(folder, "splash")
        by_pass = {"forward": [], "backward": []}
        for name, schedule in found.items():
            by_pass["forward" if "_fwd" in name else "backward"].append(
                _cost(name, schedule, blocks, rows, length, heads, size)
            )
        for direction, parts in by_pass.items():
            costs[direction].append(sum(parts[1:], parts[0]))
    return {name: min(options, key=lambda c: c.cycles) for name, options in costs.items()}


def _cost(name, schedule, blocks: SplashBlocks, rows, length, heads, size) -> Cost:
    num_q, num_k = length // blocks.query, length // blocks.key
    tiles = rows * heads * num_q * num_k
    # The largest part is the tile itself; the others open and close a block of results.
    blocks_of_results = rows * heads * (num_k if "dkv" in name else num_q)
    tile = max(schedule.parts)
    edges = sum(schedule.parts) - tile
    bytes_moved = rows * heads * _bytes_per_head(name, blocks, num_q, num_k, size)
    return Cost(
        blocks=f"{blocks.query}×{blocks.key}" + (", fused" if blocks.fused else ""),
        tiles=tiles,
        bundles_per_tile=schedule.step + tile,
        cycles=tiles * (schedule.step + tile) + blocks_of_results * edges,
        vmem=schedule.vmem,
        bytes_moved=bytes_moved,
    )


def _bytes_per_head(name, blocks: SplashBlocks, num_q, num_k, size) -> int:
    """Returns the bytes one row of one head moves: a block moves when its index changes."""
    outer_is_key = "dkv" in name
    order = list(itertools.product(range(num_k), range(num_q)))
    order = (
        [(q, k) for k, q in order]
        if outer_is_key
        else [(q, k) for q in range(num_q) for k in range(num_k)]
    )
    changes = lambda index: 1 + sum(a[index] != b[index] for a, b in itertools.pairwise(order))  # noqa: E731
    q_block, k_block = 2 * blocks.query * size, 2 * blocks.key * size
    # Segment ids come as [query, 128] and [8, key] (transposed where keys are outer), int32.
    ids_wide, ids_flat = 4 * 128, 4 * 8
    q_ids, k_ids = (ids_flat, ids_wide) if outer_is_key else (ids_wide, ids_flat)
    q_reads, k_reads = 1, 2
    q_writes, k_writes = 1, 0
    if "dq" in name and not outer_is_key:
        q_reads, q_writes = 2, 1
    if outer_is_key:
        q_reads, q_writes, k_writes = 2, int(blocks.fused), 2
    rows_of_sums = 0 if "_fwd" in name and "residuals" not in name else 2 * 4 * blocks.query * 8
    per_q = (q_reads + q_writes) * q_block + q_ids * blocks.query + rows_of_sums
    per_k = (k_reads + k_writes) * k_block + k_ids * blocks.key
    return changes(0) * per_q + changes(1) * per_k
