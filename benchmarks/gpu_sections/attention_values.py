"""Attention of every backend, values and gradients, beside a plain softmax in float32."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import length_laws
from benchmarks.gpu_sections.section import Context, Row
from flexmdm_jax.attention import Call, attention
from flexmdm_jax.attention.backends import BACKENDS, DEFAULTS, choose_backend
from flexmdm_jax.chips import current_device_kind, current_platform
from flexmdm_jax.errors import first_line

# The one that runs anywhere first, the youngest kernels last: what they break, they break alone.
NAMES = ("xla", *DEFAULTS["gpu"])
# ‖Δ‖ / ‖reference‖. Operands of bfloat16 come to between 1e-3 and 1e-2.
TOLERANCE = 1e-2
RESULTS = ("out", "dq", "dk", "dv")


@dataclasses.dataclass(frozen=True)
class Heads:
    """Heads of an attention.

    Attributes:
      queries: Their number.
      keys: Of keys and values; divides that of queries.
      size: Features.
    """

    queries: int
    keys: int
    size: int


HEADS = {"heads of 64": Heads(4, 4, 64), "of 128": Heads(2, 2, 128), "grouped": Heads(4, 2, 64)}


@dataclasses.dataclass(frozen=True)
class Layout:
    """How slots of a batch are used.

    Attributes:
      segment_ids: [rows, length]
      packed: Whether rows hold several segments.
      poisoned: Whether padding holds NaN.
    """

    segment_ids: np.ndarray
    packed: bool = False
    poisoned: bool = False


def layouts(rows: int, length: int) -> dict[str, Layout]:
    """Returns the layouts to compare, by name."""
    rng = np.random.default_rng(0)
    paragraphs = np.minimum(length_laws.paragraph_lengths()[0], length)
    uniform = length_laws.padded(rng.integers(1, length + 1, rows), length)
    empty = uniform * (np.arange(rows) != 1)[:, None]
    # So that every row holds several.
    short = np.minimum(paragraphs, length // 2)
    packed = length_laws.packed(rng.choice(short, rows * length), rows, length)
    return {
        "full rows": Layout(length_laws.padded(np.full(rows, length), length)),
        "uniform lengths": Layout(uniform),
        "OpenWebText lengths": Layout(length_laws.padded(rng.choice(paragraphs, rows), length)),
        "packed rows": Layout(packed, packed=True),
        "an empty row": Layout(empty),
        "NaN in padding": Layout(uniform, poisoned=True),
    }


def run(context: Context) -> Iterator[Row]:
    """Yields the worst ‖Δ‖ / ‖reference‖ of attention and its gradients, by backend and rows."""
    found = layouts(*context.sizes.compared)
    for name in NAMES:
        if why := missing(name):
            yield Row(name, note=why)
            continue
        for label, layout in found.items():
            yield compare(name, label, layout)


def refusal(name: str, size: int, *, packed: bool) -> str:
    """Returns why a backend does not do bfloat16 heads of a size here; empty if it does."""
    call = Call(jnp.dtype(jnp.bfloat16), size, packed, device_kind=current_device_kind())
    try:
        choose_backend(name, current_platform(), call)
    except ValueError as error:
        return first_line(error)
    return ""


def missing(name: str) -> str:
    """Returns why a backend does nothing at all here; empty if it does something."""
    platform, needed = current_platform(), BACKENDS[name].platforms
    if needed and platform not in needed:
        return f"needs a {needed[0].upper()}"
    return refusal(name, HEADS["heads of 64"].size, packed=False)


def compare(name: str, label: str, layout: Layout) -> Row:
    """Returns the row of a backend on a layout: the worst of its results for each kind of heads."""
    row = f"{name}, {label}"
    if name == "cudnn" and layout.packed:
        refused = refusal(name, 64, packed=True)
        return Row(row, passed=bool(refused), note=refused or "takes packed rows and must not")
    worst, notes = {}, []
    for kind, heads in HEADS.items():
        try:
            found = errors(name, layout, heads)
        except Exception as error:
            notes.append(f"{kind}: {first_line(error)}")
            continue
        worst[kind] = max(found.values(), key=lambda x: (np.isnan(x), x))
        notes += [f"{kind}: {part} is off" for part, x in found.items() if not x < TOLERANCE]
    return Row(row, worst, passed=not notes, note="; ".join(notes))


def errors(name: str, layout: Layout, heads: Heads) -> dict[str, float]:
    """Returns ‖Δ‖ / ‖reference‖ of the output and of each gradient; NaN where padding is not 0."""
    ids = jnp.asarray(layout.segment_ids)
    real = (ids > 0)[:, :, None, None]
    counts = (heads.queries, heads.keys, heads.keys, heads.queries)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(2), int(ids.sum())), 4)
    drawn = [
        jax.random.normal(key, (*ids.shape, count, heads.size), jnp.bfloat16)
        for key, count in zip(keys, counts, strict=True)
    ]
    clean = [jnp.where(real, x, 0) for x in drawn]
    given = [jnp.where(real, x, jnp.nan) for x in clean] if layout.poisoned else drawn
    found = _program(name, layout.packed)(*given, ids)
    with jax.default_matmul_precision("highest"):
        expected = _program("plain", False)(*(x.astype(jnp.float32) for x in clean), ids)
    parts = zip(RESULTS, found, expected, strict=True)
    return {part: _distance(x, y, np.asarray(real)) for part, x, y in parts}


def _distance(found, expected, real: np.ndarray) -> float:
    x, y = (np.asarray(a, np.float64) for a in (found, expected))
    if np.any(np.where(real, 0.0, x)):
        return float("nan")
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


@functools.cache
def _program(name: str, packed: bool) -> Callable:
    """Returns the jitted (q, k, v, gradient, segment_ids) -> output and gradients of q, k and v."""
    attend = functools.partial(attention, packed=packed, implementation=name)
    return jax.jit(functools.partial(_results, plain_attention if name == "plain" else attend))


def _results(attend: Callable, q, k, v, gradient, segment_ids):
    out, gradients = jax.vjp(lambda *qkv: attend(*qkv, segment_ids), q, k, v)
    return out, *gradients(gradient)


def plain_attention(q, k, v, segment_ids):
    """Returns attention by its definition: a table of all scores, a mask, a softmax.

    Args:
      q: Queries [b, l, h, d], 0 at padding, as all that is given.
      k: Keys [b, l, hk, d].
      v: Values [b, l, hk, d].
      segment_ids: [b, l]
    """
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    same = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids > 0)[:, None, :]
    weights = jax.nn.softmax(scores, where=same[:, None], axis=-1)
    # A row of nothing is 0 / 0.
    weights = jnp.where(same[:, None], weights, 0.0)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)
