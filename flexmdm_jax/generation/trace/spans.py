"""A frame as it is looked at: stretches of text, each of one kind, characters whole."""

import dataclasses
import enum
from collections.abc import Iterator, Sequence

from flexmdm_jax.generation.trace.changes import origins
from flexmdm_jax.generation.trace.encoding import Piece
from flexmdm_jax.generation.trace.frames import Cell, Frame

# The confidences that part the steps of the scale of colours: below 10 %, …, 90 % and more.
EDGES = (0.1, 0.3, 0.6, 0.9)


class Kind(enum.Enum):
    """What a span is; player.css has a class of each name."""

    GIVEN = "given"
    TOKEN = "token"
    NEW = "new"  # unmasked since the frame before
    MASK = "mask"
    ARRIVED = "arrived"  # a mask inserted since then
    AGAIN = "again"  # a token masked again since then
    GONE = "gone"  # what stood here and was removed or masked again


@dataclasses.dataclass(frozen=True)
class Span:
    """A stretch of a frame.

    Attributes:
      kind: What it is.
      text: Its characters; none for a mask.
      step: The step of the scale that the least confident of its tokens is on, 0 to len(EDGES);
        None where the network gave no confidence.
    """

    kind: Kind
    text: str
    step: int | None = None


def step_of(confidence: float) -> int:
    """Returns the step of the scale that a confidence is on, 0 to len(EDGES)."""
    return sum(confidence >= edge for edge in EDGES)


def spans_of(frame: Frame, before: Frame | None, piece: Piece, mask: int) -> list[Span]:
    """Returns a frame's spans from left to right.

    Tokens are a span each, except that those that share a character are one. Bytes that are no
    UTF-8 become what bytes.decode(errors="replace") makes of them in the whole text.

    Args:
      frame: The frame.
      before: What was shown before it; None: nothing in it is new.
      piece: The bytes of each token.
      mask: MASK's id.
    """
    cells = frame.cells()
    old = cells if before is None else before.cells()
    of = tuple(range(len(cells))) if before is None else origins(before, frame, mask)
    gone = _gone(of, old, cells, mask)
    spans: list[Span] = []
    for places in _clusters(cells, piece, mask):
        spans += _ghost([cell for j in places for cell in gone[j]], piece, mask)
        known = [cells[j].confidence for j in places if cells[j].confidence is not None]
        spans.append(
            Span(
                kind=_kind([cells[j] for j in places], [_at(old, of[j]) for j in places], mask),
                text=_text([cells[j] for j in places], piece, mask),
                step=step_of(min(known)) if known else None,
            )
        )
    return spans + _ghost(gone[-1], piece, mask)


def _at(old: Sequence[Cell], place: int | None) -> Cell | None:
    return None if place is None else old[place]


def _gone(
    of: Sequence[int | None], old: Sequence[Cell], cells: Sequence[Cell], mask: int
) -> list[list[Cell]]:
    """Returns what has gone before each place, and before the end."""
    gone: list[list[Cell]] = [[] for _ in range(len(cells) + 1)]
    next_old = 0
    for j, i in enumerate((*of, len(old))):
        if i is None:
            continue
        gone[j] += old[next_old:i]
        if i < len(old) and cells[j].token == mask != old[i].token:
            gone[j].append(old[i])
        next_old = i + 1
    return gone


def _clusters(cells: Sequence[Cell], piece: Piece, mask: int) -> Iterator[list[int]]:
    """Yields the places of spans: a token goes with the one before if it goes on its character."""
    # Tokens without bytes are on whichever side of the next ones that these are.
    goes_on, following = [], False
    for cell in reversed(cells):
        bits = b"" if cell.token == mask else piece(cell.token)
        following = cell.token != mask and (bits[0] & 0xC0 == 0x80 if bits else following)
        goes_on.append(following)
    places: list[int] = []
    for j, continues in enumerate(reversed(goes_on)):
        if places and not (continues and cells[places[-1]].token != mask):
            yield places
            places = []
        places.append(j)
    if places:
        yield places


def _kind(cells: Sequence[Cell], olds: Sequence[Cell | None], mask: int) -> Kind:
    if cells[0].token == mask:
        if olds[0] is None:
            return Kind.ARRIVED
        return Kind.MASK if olds[0].token == mask else Kind.AGAIN
    if all(cell.fixed for cell in cells):
        return Kind.GIVEN
    return Kind.TOKEN if list(cells) == list(olds) else Kind.NEW


def _text(cells: Sequence[Cell], piece: Piece, mask: int) -> str:
    pieces = [piece(cell.token) for cell in cells if cell.token != mask]
    return b"".join(pieces).decode(errors="replace")


def _ghost(cells: Sequence[Cell], piece: Piece, mask: int) -> list[Span]:
    """Returns a span of what has gone from a place, if anything has."""
    return [Span(Kind.GONE, _text(cells, piece, mask))] if cells else []
