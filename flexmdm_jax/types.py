"""Array shapes and small structures every other module agrees on."""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

# Axes of the device mesh: rows lie along the first two, heads and vocabulary along the last.
BATCH_AXES = ("data", "fsdp")
TENSOR_AXIS = "tensor"

# For structures that live in NumPy on the host as well as on devices.
HostOrDevice = Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Token ids with a meaning of their own.

    Attributes:
      size: Rows of the output head; every token id is below it.
      mask: Id of MASK, which is never data and never generated.
      end: Id of END, which closes every stored sequence.

    Raises:
      ValueError: If mask or end lies outside [0, size), or both are the same id.
    """

    size: int
    mask: int
    end: int

    def __post_init__(self):
        for name, value in (("mask", self.mask), ("end", self.end)):
            if not 0 <= value < self.size:
                raise ValueError(
                    f"{name} = {value} lies outside the vocabulary; "
                    f"choose an id from 0 to size - 1 = {self.size - 1}"
                )
        if self.mask == self.end:
            raise ValueError(f"mask and end are both {self.mask}; give them different ids")


@flax.struct.dataclass
class Batch:
    """Clean sequences x₁, one or several to a row.

    Attributes:
      tokens: Token ids; a row holds sequences that each end in END, then padding.
      segment_ids: 0 at padding, k at the k-th sequence of the row.
      fixed: True where a token is present and clean at all times (a prompt, FlexMDM's END).
      index: Number of the row in the global order of examples; seeds the row's noise.
      closed: True at a fixed token that nothing can be inserted before, as inside a prompt: what
        stands before it is fixed as well, and samplers close the gap. None: every gap is open.
    """

    tokens: Int[HostOrDevice, "b l"]
    segment_ids: Int[HostOrDevice, "b l"]
    fixed: Bool[HostOrDevice, "b l"]
    index: Int[HostOrDevice, "b"]
    closed: Bool[HostOrDevice, "b l"] | None = None


@flax.struct.dataclass
class Encoding:
    """What a network says of a batch of partial sequences.

    Attributes:
      hidden: Features of each slot, after the final norm and modulation.
      gaps: Expected number of tokens missing immediately before each slot, g(x, t) >= 0.
      gap_logits: Unnormalised log chances, in float32, that 0, 1, … tokens are missing there, the
        last class that many or more; gaps is its mean. None of a network that gives means only.
    """

    hidden: Float[Array, "b l d"]
    gaps: Float[Array, "b l"]
    gap_logits: Float[Array, "b l k"] | None = None


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A network as losses and samplers see it: two pure functions.

    Attributes:
      encode: (tokens [b, l], segment_ids [b, l], alpha [b, s]) -> Encoding.
      decode: hidden of any slots [..., d] -> logits [..., vocabulary] in float32.
    """

    encode: Callable[[Int[Array, "b l"], Int[Array, "b l"], Float[Array, "b s"]], Encoding]
    decode: Callable[[Float[Array, "*slots d"]], Float[Array, "*slots v"]]


RowKeys = Key[Array, "b"]
SegmentKeys = Key[Array, "b s"]
SlotKeys = Key[Array, "b l"]


def check_row_keys(keys: Array, num_rows: int | None = None) -> None:
    """Raises ValueError unless there is one key for each of num_rows (or any number of) rows."""
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise ValueError("keys are typed ones: jax.random.key(seed), not jax.random.PRNGKey(seed)")
    if keys.ndim != 1 or (num_rows is not None and len(keys) != num_rows):
        found = f"keys of shape {keys.shape}" if keys.shape else "a single key"
        rows = "rows" if num_rows is None else num_rows
        raise ValueError(
            f"{found} for {num_rows or 'several'} rows; every row needs a key of its own: "
            f"jax.random.split(key, {rows})"
        )


def fold_in_rows(key: Key[Array, ""], numbers: Int[HostOrDevice, "b"]) -> RowKeys:
    """Returns one key per row: row i's noise depends on the key and numbers[i] alone."""
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)


def per_slot(
    values: Shaped[Array, "b s *rest"], segment_ids: Int[Array, "b l"]
) -> Shaped[Array, "b l *rest"]:
    """Returns each slot's entry of a per-segment array (at padding, the first segment's).

    An array with a single column holds for every segment of the row.
    """
    if values.shape[1] == 1:
        return jnp.broadcast_to(values, segment_ids.shape + values.shape[2:])
    column = jnp.maximum(segment_ids - 1, 0)
    return jnp.take_along_axis(
        values, column.reshape(column.shape + (1,) * (values.ndim - 2)), axis=1
    )


def keys_of_slots(keys: SegmentKeys, segment_ids: Int[Array, "b l"]) -> SlotKeys:
    """Returns a key for each slot, which its segment's key and its place in the segment decide.

    So a sequence gets the same noise wherever it stands in a row, and whatever stands beside it.
    """
    slot = jnp.broadcast_to(jnp.arange(segment_ids.shape[1]), segment_ids.shape)
    opens = jnp.pad(segment_ids[:, 1:] != segment_ids[:, :-1], ((0, 0), (1, 0)))
    place = slot - jax.lax.cummax(jnp.where(opens, slot, 0), axis=1)
    of_slot = per_slot(jax.random.key_data(keys), segment_ids)
    of_slot = jax.random.wrap_key_data(of_slot, impl=jax.random.key_impl(keys))
    return jax.vmap(jax.vmap(jax.random.fold_in))(of_slot, place)
