"""Attention as TPU kernels whose cost follows the pairs of slots that share a segment."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from flexmdm_jax.attention import kernels, tiles
from flexmdm_jax.attention.blocks import CHIPS, BlockSizes, current_chip, plan
from flexmdm_jax.attention.gradients import differentiable

LOG2_E = math.log2(math.e)


@dataclasses.dataclass(frozen=True)
class _Call:
    """What both kernels are built from; hashable, for it is static under differentiation."""

    group: kernels.HeadGroup
    groups: int
    blocks: BlockSizes
    scale: float
    vmem: int
    interpret: bool


def attention_pallas(
    q: Float[Array, "b l h d"],
    k: Float[Array, "b l hk d"],
    v: Float[Array, "b l hk d"],
    segment_ids: Int[Array, "b l"],
    *,
    blocks: BlockSizes | None = None,
    interpret: bool = False,
) -> Float[Array, "b l h d"]:
    """Returns attention(), visiting only tiles that hold a pair of slots of one segment.

    Differentiable in q, k and v. Head sizes are padded with zeros to 64 or a multiple of 128, and
    lengths to a multiple of the block.

    Args:
      q: Queries, bfloat16 or float32.
      k: Keys; hk must divide h.
      v: Values.
      segment_ids: 0 at padding, which ends the row; ascending otherwise.
      blocks: Tile sizes; None takes those of the TPU generation compiled for.
      interpret: Run without a TPU, slowly, for tests.

    Raises:
      ValueError: If the accumulators of a row or the list of tiles do not fit on chip.
    """
    b, l, h, d = q.shape
    kv_heads = k.shape[2]
    chip = CHIPS["v5e"] if interpret else current_chip()
    layout = plan(b, l, h, kv_heads, d, q.dtype.itemsize, chip=chip, blocks=blocks)
    size, scale = layout.head_size, d**-0.5
    call = _Call(
        group=kernels.HeadGroup(layout.kv_heads, h // kv_heads, size, scale * LOG2_E),
        groups=kv_heads // layout.kv_heads,
        blocks=layout.blocks,
        scale=scale,
        vmem=layout.vmem,
        interpret=interpret,
    )
    more = layout.length - l
    pad = lambda x: _flatten(jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, size - d))))  # noqa: E731
    bounds = tiles.segment_bounds(jnp.pad(segment_ids, ((0, 0), (0, more))))
    out = _attend(call, pad(q), pad(k), pad(v), bounds)
    return out.reshape(b, layout.length, h, size)[:, :l, :, :d]


def _flatten(x):
    return x.reshape(*x.shape[:2], -1)


def _specs(call: _Call):
    """Returns the blocks of the arrays; "rows" is one number per query and head."""
    heads, lanes = call.group.heads, call.group.heads * call.group.size
    kv_lanes = call.group.kv_heads * call.group.size
    block_q, block_k = call.blocks.query, call.blocks.key

    def bounds_at(group, step, block, *_):
        row, place = tiles.row_and_block(block[step])
        return row, 0, place

    def queries_at(group, step, block, *_):
        return *tiles.row_and_block(block[step]), group

    def keys_at(group, step, block, span, *_):
        row, _ = tiles.row_and_block(block[step])
        first, _ = tiles.key_and_flags(span[step])
        return row, pl.multiple_of(first, tiles.START_ALIGNMENT), group * kv_lanes

    def rows_at(group, step, block, *_):
        row, place = tiles.row_and_block(block[step])
        return row, group, 0, place

    keys = pl.BlockSpec((pl.Element(1), pl.Element(block_k), pl.Element(kv_lanes)), keys_at)
    return {
        "bounds": pl.BlockSpec((1, 2, block_q), bounds_at),
        "queries": pl.BlockSpec((1, block_q, lanes), queries_at),
        "keys": keys,
        "rows": pl.BlockSpec((1, 1, heads, block_q), rows_at),
        "all_rows": pl.BlockSpec((1, 1, 2 * heads + 2, block_q), rows_at),
        "zeros": pl.BlockSpec(memory_space=pl.ANY),
    }


def _params(call: _Call):
    return pltpu.CompilerParams(
        dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=call.vmem
    )


def _steps(call: _Call, work: tiles.TileList):
    # The interpreter knows static grids only; its spare steps do nothing.
    return work.block.size if call.interpret else work.count


def _forward(call: _Call, q, k, v, bounds):
    b, length, _ = q.shape
    heads, size = call.group.heads, call.group.size
    block_q = call.blocks.query
    work = tiles.list_tiles(bounds, block_q, call.blocks.key)
    spec = _specs(call)
    prefetched = (work.block, work.span, bounds[:, 1].max(-1))
    return pl.pallas_call(
        functools.partial(kernels.forward_kernel, group=call.group),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(prefetched),
            grid=(call.groups, _steps(call, work)),
            in_specs=[spec[n] for n in ("bounds", "queries", "keys", "keys", "zeros")],
            out_specs=[spec["queries"], spec["rows"]],
            scratch_shapes=[
                pltpu.VMEM((heads, block_q), jnp.float32),
                pltpu.VMEM((heads, block_q), jnp.float32),
                pltpu.VMEM((heads * size, block_q), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, q.dtype),
            jax.ShapeDtypeStruct((b, call.groups, heads, length), jnp.float32),
        ],
        # Blocks no step writes are padding: they keep the zeros given here.
        input_output_aliases={len(prefetched) + 4: 0},
        compiler_params=_params(call),
        interpret=call.interpret,
        name="segment_attention_forward",
    )(*prefetched, bounds, q, k, v, jnp.zeros_like(q))


def _backward(call: _Call, q, k, v, bounds, out, lse, grad):
    b, length, _ = q.shape
    heads, size = call.group.heads, call.group.size
    kv_lanes = call.group.kv_heads * size
    block_q = call.blocks.query
    products = (out.astype(jnp.float32) * grad).reshape(b, length, call.groups, heads, size)
    real = (bounds[:, 1] > 0)[:, None, None]
    delta = jnp.where(real, jnp.moveaxis(products.sum(-1), 1, -1), 0.0)
    bounds_of_all = jnp.broadcast_to(bounds[:, None], (b, call.groups, 2, length))
    rows = jnp.concatenate([lse, delta, bounds_of_all.astype(jnp.float32)], axis=2)
    work = tiles.list_tiles(bounds, block_q, call.blocks.key, flush=True)
    spec = _specs(call)

    def flushed_at(group, step, block, span, flush, *_):
        return *tiles.row_and_block(flush[step]), group

    flushed = pl.BlockSpec((1, call.blocks.key, kv_lanes), flushed_at)
    prefetched = (work.block, work.span, work.flush, bounds[:, 1].max(-1))
    inputs = ("queries", "keys", "keys", "queries", "all_rows", *["zeros"] * 3)
    first_zeros = len(prefetched) + 5
    return pl.pallas_call(
        functools.partial(kernels.backward_kernel, group=call.group, scale=call.scale),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(prefetched),
            grid=(call.groups, _steps(call, work)),
            in_specs=[spec[n] for n in inputs],
            out_specs=[spec["queries"], flushed, flushed],
            scratch_shapes=[
                pltpu.VMEM((heads * size, block_q), jnp.float32),
                pltpu.VMEM((length, kv_lanes), jnp.float32),
                pltpu.VMEM((length, kv_lanes), jnp.float32),
            ],
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)],
        input_output_aliases={first_zeros + i: i for i in range(3)},
        compiler_params=_params(call),
        interpret=call.interpret,
        name="segment_attention_backward",
    )(
        *prefetched,
        *(q, k, v, grad, rows),
        *(jnp.zeros_like(x) for x in (q, k, v)),
    )


_attend = differentiable(_forward, _backward)
