"""What attention() refuses, at trace time."""

import jax
import jax.numpy as jnp
import numpy as np


def check_inputs(q, k, v, segment_ids):
    """Checks the arguments of attention() against each other.

    Raises:
      ValueError: Naming the argument, if shapes disagree, heads do not divide, types are wrong or
        the segments of a row do not ascend (seen only where segment_ids is not traced).
    """
    _check_shapes(q, k, v, segment_ids)
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"{name} is {x.dtype}; give floating-point numbers")
        if x.dtype != q.dtype:
            raise ValueError(f"{name} is {x.dtype} and q is {q.dtype}; give both the same type")
    if not jnp.issubdtype(segment_ids.dtype, jnp.integer):
        raise ValueError(
            f"segment_ids is {segment_ids.dtype}; give integers: 0 at padding, k at segment k"
        )
    if not isinstance(segment_ids, jax.core.Tracer):
        _check_order(np.asarray(segment_ids))


def _check_shapes(q, k, v, segment_ids):
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4:
            raise ValueError(f"{name} has shape {x.shape}; give [batch, length, heads, features]")
    b, l, h, d = q.shape
    if k.shape[:2] != (b, l) or k.shape[3] != d:
        raise ValueError(
            f"k has shape {k.shape} and q {q.shape}; all but the number of heads must agree"
        )
    if v.shape != k.shape:
        raise ValueError(f"v has shape {v.shape} and k {k.shape}; they must agree")
    if not k.shape[2] or h % k.shape[2]:
        raise ValueError(
            f"k has {k.shape[2]} heads and q {h}; the heads of k must divide those of q"
        )
    if segment_ids.shape != (b, l):
        raise ValueError(
            f"segment_ids has shape {segment_ids.shape}; give one per slot of q: {(b, l)}"
        )


def _check_order(segment_ids):
    # Padding closes a row, so it counts as the highest segment.
    order = np.where(segment_ids == 0, np.iinfo(segment_ids.dtype).max, segment_ids)
    bad = np.flatnonzero((segment_ids < 0).any(1) | (np.diff(order, axis=1) < 0).any(1))
    if bad.size:
        raise ValueError(
            f"segment_ids is not sorted in row {bad[0]}: number segments 1, 2, ... in order of "
            "their slots, and put padding, 0, at the end"
        )
