"""The canvas a sampler writes on: partial sequences in a buffer of fixed length."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from flexmdm_jax.process import Process
from flexmdm_jax.types import HostOrDevice, Vocabulary


@flax.struct.dataclass
class Marks:
    """How each token came to be there, of rows that somebody watches.

    Attributes:
      changed: The call that inserted the mask or unmasked the token, counted from 1; 0 for what was
        there before.
      confidence: The probability that the network gave the token when it was unmasked, at
        temperature 1; NaN for masks and for what was there before.
    """

    changed: Int[HostOrDevice, "b l"]
    confidence: Float[HostOrDevice, "b l"]

    def renewed(
        self, slots: Bool[Array, "b l"], call: Int[Array, "b"], confidence: Float[Array, "b l"]
    ) -> "Marks":
        """Returns the marks after a call changed some slots."""
        return Marks(
            changed=jnp.where(slots, call[:, None], self.changed),
            confidence=jnp.where(slots, confidence, self.confidence),
        )


@flax.struct.dataclass
class Canvas:
    """Partial sequences, one to a row, aligned to the left.

    Attributes:
      tokens: Clean tokens and MASK, then END; END again at padding.
      segment_ids: 1 at the sequence's slots, 0 at padding.
      closed: True where the gap immediately before the slot never receives an insertion.
      fixed: True where a token stays as it is: it was there before the first step.
      marks: How tokens came about, or None if nobody asks.
    """

    tokens: Int[HostOrDevice, "b l"]
    segment_ids: Int[HostOrDevice, "b l"]
    closed: Bool[HostOrDevice, "b l"]
    fixed: Bool[HostOrDevice, "b l"]
    marks: Marks | None = None

    @property
    def real(self) -> Bool[HostOrDevice, "b l"]:
        """Returns where the sequences' slots are."""
        return self.segment_ids > 0

    @property
    def open(self) -> Bool[HostOrDevice, "b l"]:
        """Returns the slots whose gap may receive insertions."""
        return self.real & ~self.closed

    @property
    def room(self) -> Int[Array, "b"]:
        """Returns how many slots are left."""
        return self.tokens.shape[1] - jnp.sum(self.real, axis=1)

    def masks(self, vocabulary: Vocabulary) -> Bool[HostOrDevice, "b l"]:
        """Returns where MASK stands."""
        return self.real & (self.tokens == vocabulary.mask)


def _padded(
    tokens: Int[Array, "b p"], lengths: Int[Array, "b"], length: int, vocabulary: Vocabulary
):
    if tokens.shape[1] >= length:
        raise ValueError(
            f"{tokens.shape[1]} fixed tokens leave no room in a canvas of {length} slots"
        )
    tokens = jnp.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))
    slots = jnp.arange(length)[None, :]
    return jnp.where(slots < lengths[:, None], tokens, vocabulary.end), slots


def empty_canvas(
    fixed: Int[Array, "b p"], lengths: Int[Array, "b"], length: int, vocabulary: Vocabulary
) -> Canvas:
    """Returns the canvas FlexMDM starts from: the fixed tokens, then END, all gaps open.

    Args:
      fixed: Tokens that stay (a prompt, subgoals, a prefix and a suffix), left-aligned; p may be 0.
      lengths: How many of them belong to each row.
      length: Slots of the buffer, END included.
      vocabulary: Ids of MASK and END.

    Raises:
      ValueError: If the fixed tokens leave no room for END.
    """
    tokens, slots = _padded(fixed, lengths, length, vocabulary)
    real = slots <= lengths[:, None]
    return Canvas(
        tokens=tokens,
        segment_ids=real.astype(jnp.int32),
        closed=jnp.zeros(tokens.shape, bool),
        fixed=real,
    )


def masked_canvas(
    prompt: Int[Array, "b p"], lengths: Int[Array, "b"], length: int, vocabulary: Vocabulary
) -> Canvas:
    """Returns the canvas MDM starts from: the prompt, then MASK in every slot left.

    Raises:
      ValueError: If the prompt leaves no room.
    """
    tokens, slots = _padded(prompt, lengths, length, vocabulary)
    given = slots < lengths[:, None]
    return Canvas(
        tokens=jnp.where(given, tokens, vocabulary.mask),
        segment_ids=jnp.ones(tokens.shape, jnp.int32),
        closed=jnp.ones(tokens.shape, bool),
        fixed=given,
    )


def protect(canvas: Canvas, start: Int[Array, "b"], stop: Int[Array, "b"]) -> Canvas:
    """Returns the canvas with the gaps before slots start..stop-1 of each row closed.

    A prompt of n tokens is closed by (0, n): text may follow it, not enter it. Slot n's own gap,
    which is where the continuation goes, stays open.
    """
    slots = jnp.arange(canvas.tokens.shape[1])[None, :]
    inside = (slots >= start[:, None]) & (slots < stop[:, None])
    return canvas.replace(closed=canvas.closed | inside)


def start_canvas(
    num: int,
    length: int,
    process: Process,
    *,
    prefix: tuple[int, ...] = (),
    suffix: tuple[int, ...] = (),
) -> Canvas:
    """Returns num equal rows to sample from: nothing, a prefix, or a prefix and a suffix.

    FlexMDM writes between prefix and suffix (with no suffix, up to END), and every other gap is
    closed; MDM masks all that follows the prefix.

    Raises:
      ValueError: If MDM is given a suffix, whose place it would have to know, or nothing fits.
    """
    fixed = jnp.broadcast_to(
        jnp.asarray([*prefix, *suffix], jnp.int32), (num, len(prefix) + len(suffix))
    )
    lengths = jnp.full(num, fixed.shape[1], jnp.int32)
    if not suffix:
        return prefix_canvas(fixed, lengths, length, process)
    if not process.inserts:
        raise ValueError("MDM cannot place a suffix: its lengths are fixed; use FlexMDM")
    canvas = empty_canvas(fixed, lengths, length, process.vocabulary)
    canvas = protect(canvas, jnp.zeros_like(lengths), jnp.full_like(lengths, len(prefix)))
    return protect(canvas, jnp.full_like(lengths, len(prefix) + 1), lengths + 1)


def prefix_canvas(
    prefixes: Int[HostOrDevice, "b p"],
    lengths: Int[HostOrDevice, "b"],
    length: int,
    process: Process,
) -> Canvas:
    """Returns rows to continue, each from a prefix of its own that stays as it is.

    Args:
      prefixes: Tokens, left-aligned.
      lengths: How many of them belong to each row.
      length: Slots of the buffer.
      process: Decides between FlexMDM's canvas and MDM's.

    Raises:
      ValueError: If the prefixes leave no room.
    """
    prefixes, lengths = jnp.asarray(prefixes), jnp.asarray(lengths)
    if not process.inserts:
        return masked_canvas(prefixes, lengths, length, process.vocabulary)
    canvas = empty_canvas(prefixes, lengths, length, process.vocabulary)
    return protect(canvas, jnp.zeros_like(lengths), lengths)


def insert_masks(
    canvas: Canvas,
    counts: Int[Array, "b l"],
    vocabulary: Vocabulary,
    call: Int[Array, "b"] | None = None,
) -> Canvas:
    """Returns the canvas with counts[i] masks inserted immediately before slot i.

    Args:
      canvas: Rows.
      counts: Zero at padding; their sum must fit the buffer.
      vocabulary: The id of MASK.
      call: Its number, for the marks of the masks; left out where there are none.
    """
    length = canvas.tokens.shape[1]
    target = jnp.arange(length)[None, :] + jnp.cumsum(counts, axis=1)
    new_length = jnp.sum(canvas.real, axis=1) + jnp.sum(counts, axis=1)
    target = jnp.where(canvas.real, target, length)
    return _moved(canvas, target, new_length, vocabulary, call)


def remove(canvas: Canvas, gone: Bool[Array, "b l"], vocabulary: Vocabulary) -> Canvas:
    """Returns the canvas without some of its tokens, which are not fixed.

    The gap that a token leaves joins the one behind it, which is as open as it was.
    """
    kept = canvas.real & ~gone
    target = jnp.where(kept, jnp.cumsum(kept, axis=1) - 1, canvas.tokens.shape[1])
    return _moved(canvas, target, jnp.sum(kept, axis=1), vocabulary)


def _moved(
    canvas: Canvas, target: Int[Array, "b l"], new_length: Int[Array, "b"], vocabulary, call=None
) -> Canvas:
    """Returns the canvas with its slots at their targets, masks between them, then padding."""
    rows = jnp.arange(canvas.tokens.shape[0])[:, None]
    inside = jnp.arange(canvas.tokens.shape[1])[None, :] < new_length[:, None]
    blank = jnp.where(inside, vocabulary.mask, vocabulary.end).astype(canvas.tokens.dtype)
    move = lambda start, x: start.at[rows, target].set(x, mode="drop")  # noqa: E731
    marks = canvas.marks
    if marks is not None:
        new = jnp.zeros_like(marks.changed) + (0 if call is None else call[:, None])
        unknown = jnp.full_like(marks.confidence, jnp.nan)
        marks = Marks(move(new, marks.changed), move(unknown, marks.confidence))
    return Canvas(
        marks=marks,
        tokens=move(blank, canvas.tokens),
        segment_ids=inside.astype(jnp.int32),
        closed=move(jnp.zeros_like(canvas.closed), canvas.closed),
        fixed=move(jnp.zeros_like(canvas.fixed), canvas.fixed),
    )
