"""Attention as Hopper GPU kernels whose cost follows the pairs of slots that share a segment."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from flexmdm_jax.attention import kernels_gpu, tiles
from flexmdm_jax.attention.calls import Call, sixteen_bits
from flexmdm_jax.attention.gradients import differentiable
from flexmdm_jax.attention.hopper import Hopper, Interpreter, Ring, matrix_memory
from flexmdm_jax.attention.kernels_gpu import AXES, Body
from flexmdm_jax.attention.streams import BLOCK, GROUP, GROUPS, list_streams

# H100, H200, H20, H800, GH200: the only GPUs with this matrix unit.
_HOPPER = re.compile(r"\bG?H\d+")


@dataclasses.dataclass(frozen=True)
class Stream:
    """How slots stream past a block.

    Attributes:
      tile: Slots at a time, a multiple of 64 that divides BLOCK.
      stages: Tiles in shared memory at once.

    Raises:
      ValueError: If the tile is no such multiple.
    """

    tile: int
    stages: int

    def __post_init__(self):
        if self.tile <= 0 or self.tile % 64 or BLOCK % self.tile:
            raise ValueError(f"tile = {self.tile}: give 64 or {BLOCK}")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The streams of the three kernels.

    Attributes:
      forward: Keys and values past queries.
      query_gradient: The same, backward.
      key_gradient: Queries and gradients past keys and values.
    """

    forward: Stream
    query_gradient: Stream
    key_gradient: Stream


# By features of a head: tiles that spill no registers, with room for three or four at once.
PLANS = {
    64: Plan(Stream(128, 4), Stream(128, 4), Stream(128, 4)),
    128: Plan(Stream(128, 3), Stream(64, 4), Stream(64, 4)),
}


def _padded(head_size: int) -> int:
    return min(size for size in PLANS if size >= head_size)


def plan_of(head_size: int) -> Plan:
    """Returns the streams of the kernels for heads of at most 128 features."""
    return PLANS[_padded(head_size)]


@dataclasses.dataclass(frozen=True)
class _Call:
    """What the kernels are built from; hashable, for it is static under differentiation."""

    plan: Plan
    body: Body
    interpret: Any


def objection(call: Call) -> str:
    """Returns why the kernels cannot do a call, and what they take; empty if they can."""
    if why := sixteen_bits(call):
        return why
    if call.head_size > max(PLANS):
        return f"takes heads of up to {max(PLANS)} features and these have {call.head_size}"
    if not _HOPPER.search(call.device_kind):
        return f"is for Hopper GPUs (H100, H200) and this program for {call.device_kind}"
    return ""


def attention_pallas_gpu(
    q: Float[Array, "b l h d"],
    k: Float[Array, "b l hk d"],
    v: Float[Array, "b l hk d"],
    segment_ids: Int[Array, "b l"],
    *,
    plan: Plan | None = None,
    interpret: Any = None,
) -> Float[Array, "b l h d"]:
    """Returns attention(), visiting only tiles that hold a pair of slots of one segment.

    Differentiable in q, k and v. Head sizes are padded with zeros to 64 or 128, and lengths to a
    multiple of 128.

    Args:
      q: Queries, bfloat16 or float16.
      k: Keys; hk must divide h.
      v: Values.
      segment_ids: 0 at padding, which ends the row; ascending otherwise.
      plan: Tile sizes; None takes those of the head size.
      interpret: Parameters of Pallas' GPU interpreter, to run without a GPU, slowly, for tests.

    objection() says what the kernels take.
    """
    length, h, d = q.shape[1:]
    size = _padded(d)
    machine = Interpreter() if interpret else Hopper()
    call = _Call(plan or plan_of(d), Body(machine, h // k.shape[2], d**-0.5), interpret)
    more = -length % BLOCK
    real = (segment_ids > 0)[:, :, None, None]

    def pad(x):
        # A weight of 0 times a NaN in padding would still be NaN, here and in the gradients.
        x = jnp.where(real, x, jnp.zeros_like(x))
        return jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, size - d)))

    bounds = tiles.segment_bounds(jnp.pad(segment_ids, ((0, 0), (0, more))))
    return _attend(call, pad(q), pad(k), pad(v), bounds)[:, :length, :, :d]


def _run(call: _Call, kernel, stream: Stream, results, own, passing, operands):
    """Returns what a kernel writes, run on every block of every row and head.

    Args:
      call: What it is built from.
      kernel: One of kernels_gpu.
      stream: Of the slots that pass a block.
      results: Their shapes and types; the first has the rows and heads of the grid.
      own: Memory for the parts of a block that a warpgroup owns, beside the bounds of its segments.
      passing: Memory for what passes.
      operands: What it reads; the bounds of segments come last.
    """
    b, length, heads, _ = results[0].shape
    # All but the log-sum-exp, a vector, is read before anything is written.
    fetched = 1 + sum(len(memory.shape) == 3 for memory in own)
    return plgpu.kernel(
        functools.partial(kernel, body=call.body),
        out_type=results,
        scratch_types=[
            (plgpu.SMEM((GROUPS, 2, GROUP), jnp.int32), *own),
            plgpu.Barrier(num_arrivals=fetched, num_barriers=GROUPS),
            Ring.memory(passing, stream.stages, GROUPS),
        ],
        grid=(b, heads, length // BLOCK),
        grid_names=AXES[:-1],
        num_threads=GROUPS + 1,
        thread_name=AXES[-1],
        kernel_name=f"segment_attention_{kernel.__name__.removesuffix('_kernel')}",
        compiler_params=plgpu.CompilerParams(
            approx_math=True,
            # No kernel reduces across warps.
            reduction_scratch_bytes=0,
            # Layouts over registers are given, not inferred, which is newer JAX's default.
            lowering_semantics=plgpu.LoweringSemantics.Lane,
        ),
        interpret=call.interpret,
    )(*operands, list_streams(operands[-1], stream.tile))


def _like(*arrays):
    return [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays]


def _forward(call: _Call, q, k, v, bounds):
    b, length, h, size = q.shape
    stream = call.plan.forward
    queries = matrix_memory((GROUPS, GROUP, size), q.dtype)
    keys = matrix_memory((stream.stages, stream.tile, size), k.dtype)
    lse = jax.ShapeDtypeStruct((b, h, length), jnp.float32)
    return _run(
        call,
        kernels_gpu.forward_kernel,
        stream,
        results=[*_like(q), lse],
        own=(queries, plgpu.SMEM((GROUPS, GROUP), jnp.float32)),
        passing=(keys, keys),
        operands=(q, k, v, bounds),
    )


def _backward(call: _Call, q, k, v, bounds, out, lse, grad):
    size = q.shape[-1]
    real = (bounds[:, 1] > 0)[:, :, None, None]
    grad = jnp.where(real, grad, jnp.zeros_like(grad))
    delta = (out.astype(jnp.float32) * grad).sum(-1)
    rows = jnp.stack([lse, jnp.moveaxis(delta, 1, 2)], axis=2)
    operands = (q, k, v, grad, rows, bounds)
    owned = matrix_memory((GROUPS, GROUP, size), q.dtype)
    stream = call.plan.query_gradient
    keys = matrix_memory((stream.stages, stream.tile, size), k.dtype)
    [dq] = _run(
        call,
        kernels_gpu.query_gradient_kernel,
        stream,
        results=_like(q),
        own=(owned, owned),
        passing=(keys, keys),
        operands=operands,
    )
    stream = call.plan.key_gradient
    queries = matrix_memory((stream.stages, stream.tile, size), q.dtype)
    values = plgpu.SMEM((stream.stages, 2, stream.tile), jnp.float32)
    dk, dv = _run(
        call,
        kernels_gpu.key_gradient_kernel,
        stream,
        results=_like(k, v),
        own=(owned, owned),
        passing=(queries, queries, values),
        operands=operands,
    )
    return dq, dk, dv


_attend = differentiable(_forward, _backward)
