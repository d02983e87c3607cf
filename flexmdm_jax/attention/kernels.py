"""Bodies of the TPU kernels: one grid step handles one tile of scores for a group of heads.

Scores are held transposed, keys along sublanes and queries along lanes, so that maxima and sums
over keys are elementwise operations between registers and per-query values are one row wide.
The running softmax is that of FlashAttention-2 (Dao, 2023), in powers of two.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from flexmdm_jax.attention import tiles

# Masked scores are -inf and this is below any score, so exp2(masked - running maximum) is 0.
LOWEST = -1e30
LANES = 128
# Heads whose first matrix products are issued before they are needed. One head alone is a chain
# of dependent operations; these counts gave the shortest schedules for v5e (docs/performance.md).
FORWARD_AHEAD, BACKWARD_AHEAD, BACKWARD_AHEAD_MASKED = 6, 2, 3


@dataclasses.dataclass(frozen=True)
class HeadGroup:
    """The heads one grid step handles.

    Attributes:
      kv_heads: Heads of k and v.
      queries: Query heads per head of k and v.
      size: Features per head.
      scale: Scores are multiplied by this; includes log2(e).
    """

    kv_heads: int
    queries: int
    size: int
    scale: float

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.kv_heads * self.queries

    def lanes(self, head: int) -> slice:
        """Where a head lies along the features of its array."""
        return slice(head * self.size, (head + 1) * self.size)

    def tile(self, head: int) -> slice:
        """The whole registers (128 features) that hold a head, alone or beside another."""
        width = max(self.size, LANES)
        first = head * self.size // width * width
        return slice(first, first + width)

    def within(self, head: int) -> slice:
        """Where a head lies within its tile."""
        first = head * self.size % max(self.size, LANES)
        return slice(first, first + self.size)


def _dot(x, y, contract: tuple[int, int]):
    # Without HIGHEST the TPU rounds float32 operands to bfloat16.
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    dims = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(x, y, dims, precision=precision, preferred_element_type=jnp.float32)


def _unpack(block_ref, span_ref):
    """Returns (row, query block, first key, flags) of this grid step."""
    step = pl.program_id(1)
    return *tiles.row_and_block(block_ref[step]), *tiles.key_and_flags(span_ref[step])


def _same_segment(start, stop, first_key, block_k):
    """Returns which keys [keys, queries] each query sees, given its segment's bounds."""
    key = first_key + jax.lax.broadcasted_iota(jnp.int32, (block_k, start.shape[1]), 0)
    return (key >= start) & (key < stop)


def _zero_padding(x, num_real):
    """Returns x with rows from num_real on set to 0: their content may be NaN."""
    row = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
    return jnp.where(row < num_real, x, jnp.zeros_like(x))


def _pipeline(heads: int, ahead: int, prepare, finish):
    """Runs finish(head, prepare(head)) for each head, with prepare some heads ahead."""
    ready = [prepare(head) for head in range(min(ahead, heads))]
    for head in range(heads):
        if head + ahead < heads:
            ready.append(prepare(head + ahead))
        finish(head, ready[head])
        ready[head] = None


def _alone(x, group: HeadGroup, head: int):
    """Returns the tile of a query head [rows, features], in the place of its key head, else 0.

    Two heads of 64 share a register. Products with the whole tile of keys then need no shifts,
    and take the matrix unit, 128 deep, no longer.
    """
    if group.size >= LANES:
        return x
    target = group.within(head // group.queries).start
    if target != group.within(head).start:
        x = jnp.concatenate([x[:, group.size :], x[:, : group.size]], axis=1)
    lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    return jnp.where(lane // group.size == target // group.size, x, jnp.zeros_like(x))


def forward_kernel(
    block_ref,
    span_ref,
    lengths_ref,
    bounds_ref,
    q_ref,
    k_ref,
    v_ref,
    _,
    o_ref,
    lse_ref,
    max_ref,
    sum_ref,
    acc_ref,
    *,
    group: HeadGroup,
):
    """Adds one tile to the running softmax of its queries; writes the output after the last."""
    row, _, first_key, flags = _unpack(block_ref, span_ref)

    def clear():
        max_ref[...] = jnp.full_like(max_ref, LOWEST)
        sum_ref[...] = jnp.zeros_like(sum_ref)
        acc_ref[...] = jnp.zeros_like(acc_ref)

    pl.when(pl.program_id(1) == 0)(clear)

    def scores(head, mask):
        k = k_ref[0, :, group.tile(head // group.queries)]
        q = _alone(q_ref[0, :, group.tile(head)], group, head)
        s = _dot(k, q, (1, 1)) * group.scale
        return s if mask is None else jnp.where(mask, s, -jnp.inf)

    def accumulate(head, s, num_keys):
        lanes, at, kv = group.lanes(head), slice(head, head + 1), head // group.queries
        v = v_ref[0, :, group.tile(kv)]
        if num_keys is not None:
            v = _zero_padding(v, num_keys)
        previous = max_ref[at, :]
        highest = jnp.maximum(previous, s.max(axis=0, keepdims=True))
        p = jnp.exp2(s - highest)
        decay = jnp.exp2(previous - highest)
        max_ref[at, :] = highest
        sum_ref[at, :] = decay * sum_ref[at, :] + p.sum(axis=0, keepdims=True)
        product = _dot(v.T[group.within(kv), :], p.astype(v.dtype), (1, 0))
        acc_ref[lanes, :] = decay * acc_ref[lanes, :] + product

    def tile(mask, num_keys):
        _pipeline(
            group.heads,
            FORWARD_AHEAD,
            lambda head: scores(head, mask),
            lambda head, s: accumulate(head, s, num_keys),
        )

    @pl.when(flags & tiles.UNMASKED != 0)
    def whole_tile():
        tile(None, None)

    @pl.when(flags & tiles.MASKED != 0)
    def masked_tile():
        block_k = k_ref.shape[1]
        start, stop = bounds_ref[0, 0:1, :], bounds_ref[0, 1:2, :]
        tile(_same_segment(start, stop, first_key, block_k), lengths_ref[row] - first_key)

    @pl.when(flags & tiles.LAST != 0)
    def finish():
        total = sum_ref[...]
        empty = total == 0
        inverse = jnp.where(empty, 0.0, 1 / jnp.where(empty, 1.0, total))
        lse_ref[0, 0] = max_ref[...] + jnp.log2(jnp.where(empty, 1.0, total))
        for head in range(group.heads):
            lanes = group.lanes(head)
            acc_ref[lanes, :] *= inverse[head : head + 1, :]
        o_ref[0] = acc_ref[...].T.astype(o_ref.dtype)
        clear()


def backward_kernel(
    block_ref,
    span_ref,
    flush_ref,
    lengths_ref,
    q_ref,
    k_ref,
    v_ref,
    do_ref,
    rows_ref,
    _dq,
    _dk,
    _dv,
    dq_ref,
    dk_ref,
    dv_ref,
    dq_acc,
    dk_acc,
    dv_acc,
    *,
    group: HeadGroup,
    scale: float,
):
    """Adds one tile to the gradients; writes dq after a block's last tile, dk and dv after a row's.

    rows_ref holds of each query: log-sum-exp of all heads, sum of out · do of all heads, and the
    bounds of its segment, as float32 (exact up to 2²⁴ slots), for each block costs a transfer.
    dk and dv of a whole row accumulate on chip, so that scores are computed once.
    """
    row, query_block, first_key, flags = _unpack(block_ref, span_ref)
    block_q, block_k = q_ref.shape[1], k_ref.shape[1]
    _, flushed = tiles.row_and_block(flush_ref[pl.program_id(1)])

    @pl.when(pl.program_id(1) == 0)
    def clear():
        for ref in (dq_acc, dk_acc, dv_acc):
            ref[...] = jnp.zeros_like(ref)

    keys = pl.ds(pl.multiple_of(first_key, tiles.START_ALIGNMENT), block_k)
    num_keys = lengths_ref[row] - first_key
    num_queries = lengths_ref[row] - query_block * block_q

    def row_of(index):
        return rows_ref[0, 0, index : index + 1, :]

    def load(ref, head, num_real, masked):
        x = ref[0, :, group.tile(head)]
        return _zero_padding(x, num_real) if masked else x

    def scores(head, masked):
        kv = head // group.queries
        k, v = (load(ref, kv, num_keys, masked) for ref in (k_ref, v_ref))
        q, do = (
            _alone(load(ref, head, num_queries, masked), group, head) for ref in (q_ref, do_ref)
        )
        return k, q, do, _dot(k, q, (1, 1)), _dot(v, do, (1, 1))

    def accumulate(head, mask, k, q, do, s, dp):
        lanes, kv = group.lanes(head), head // group.queries
        p = jnp.exp2(s * group.scale - row_of(head))
        if mask is not None:
            p = jnp.where(mask, p, 0.0)
        ds = (p * (dp - row_of(group.heads + head))).astype(q.dtype)
        dq_acc[lanes, :] += _dot(k.T[group.within(kv), :], ds, (1, 0))
        # The other head's features are 0 in do and q, so its gradients stay as they are.
        dv_acc[keys, group.tile(kv)] += _dot(p.astype(do.dtype), do, (1, 0))
        dk_acc[keys, group.tile(kv)] += _dot(ds, q, (1, 0))

    def tile(mask):
        _pipeline(
            group.heads,
            BACKWARD_AHEAD if mask is None else BACKWARD_AHEAD_MASKED,
            lambda head: scores(head, mask is not None),
            lambda head, ready: accumulate(head, mask, *ready),
        )

    @pl.when(flags & tiles.UNMASKED != 0)
    def whole_tile():
        tile(None)

    @pl.when(flags & tiles.MASKED != 0)
    def masked_tile():
        start, stop = (row_of(2 * group.heads + i).astype(jnp.int32) for i in (0, 1))
        tile(_same_segment(start, stop, first_key, block_k))

    @pl.when(flags & tiles.LAST != 0)
    def write_queries():
        dq_ref[0] = (dq_acc[...].T * scale).astype(dq_ref.dtype)
        dq_acc[...] = jnp.zeros_like(dq_acc)

    @pl.when(flags & tiles.FLUSH != 0)
    def write_keys():
        keys = pl.ds(pl.multiple_of(flushed * block_k, block_k), block_k)
        dk_ref[0] = (dk_acc[keys, :] * scale).astype(dk_ref.dtype)
        dv_ref[0] = dv_acc[keys, :].astype(dv_ref.dtype)
        dk_acc[keys, :] = jnp.zeros_like(dk_acc[keys, :])
        dv_acc[keys, :] = jnp.zeros_like(dv_acc[keys, :])
