"""How fast attention of every backend is, forward and with gradients."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from benchmarks import length_laws
from benchmarks.gpu_sections.attention_values import NAMES, Layout, layouts, missing, refusal
from benchmarks.gpu_sections.section import Context, Row
from benchmarks.gpu_sections.sizes import Attention
from benchmarks.gpu_sections.timing import median_seconds
from flexmdm_jax.attention import attention
from flexmdm_jax.errors import first_line

LAYOUTS = ("full rows", "OpenWebText lengths", "packed rows")
# FLOPs of a pair of slots and a feature: two products forward, five backward.
_FORWARD, _WITH_GRADIENTS = 4, 14


def run(context: Context) -> Iterator[Row]:
    """Yields milliseconds of attention, and TFLOP/s over the pairs of slots that are needed."""
    for name in NAMES:
        if why := missing(name):
            yield Row(name, note=why)
            continue
        for shape in context.sizes.timed:
            found = layouts(shape.rows, shape.length)
            for label in LAYOUTS:
                layout, row = found[label], f"{name}, {shape}, {label}"
                if why := refusal(name, shape.head_size, packed=layout.packed):
                    yield Row(row, note=why)
                else:
                    yield _timed(row, name, shape, layout, context.sizes.seconds)


def _timed(row: str, name: str, shape: Attention, layout: Layout, seconds: float) -> Row:
    pairs = length_laws.floor(layout.segment_ids) * shape.rows * shape.length**2
    arrays = [
        jax.random.normal(key, (shape.rows, shape.length, shape.heads, shape.head_size), "bfloat16")
        for key in jax.random.split(jax.random.key(3), 4)
    ]
    ids, figures = jnp.asarray(layout.segment_ids), {}
    kinds = {"forward": _FORWARD, "with gradients": _WITH_GRADIENTS}
    for kind, flops in kinds.items():
        program = _programs(name, layout.packed)[kind]
        try:
            taken = median_seconds(program, *arrays, ids, seconds=seconds)
        except Exception as error:
            # What a backend takes of memory is its nature, no failure of the card.
            lacking = "RESOURCE_EXHAUSTED" in str(error)
            note = "not enough memory" if lacking else first_line(error)
            return Row(row, figures, passed=None if lacking else False, note=f"{kind}: {note}")
        needed = flops * shape.heads * shape.head_size * pairs
        figures |= {f"ms {kind}": 1e3 * taken, f"TFLOP/s {kind}": needed / taken / 1e12}
    return Row(row, figures)


@functools.cache
def _programs(name: str, packed: bool) -> dict:
    """Returns jitted functions of (q, k, v, gradient, segment_ids)."""

    def attend(q, k, v, _, ids):
        return attention(q, k, v, ids, packed=packed, implementation=name)

    def with_gradients(q, k, v, gradient, ids):
        out, pull = jax.vjp(lambda *qkv: attend(*qkv, gradient, ids), q, k, v)
        return out, pull(gradient)

    return {"forward": jax.jit(attend), "with gradients": jax.jit(with_gradients)}
