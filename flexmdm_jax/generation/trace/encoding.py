"""Traces as plain dicts, for a page, a file or a stream: each frame as what changed.

A frame after {"call": 4, …} whose text lost its sixth token, got a mask as its third and had its
ninth unmasked, being token 50 with probability 0.83:

    {"call": 5, "time": 0.31, "removed": [5], "inserted": [[2, 0]], "altered": [[8, 50, 0.83]]}

`removed` are places before; then `inserted` and `altered` are cells at their places afterwards,
ascending: [place, token, confidence, changed, fixed], of which the end may be missing where it is
what a new token has: null, the frame's call and false. What is empty is left out. The first frame
changes an empty text. player.js reads the same.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flexmdm_jax.generation.trace.changes import change
from flexmdm_jax.generation.trace.frames import Cell, Frame, Trace

# A token's id -> the UTF-8 bytes that it stands for, which may be a part of a character.
Piece = Callable[[int], bytes]

_EMPTY = Frame(0, 0.0, (), (), (), ())


def frame_to_json(frame: Frame, before: Frame | None, mask: int) -> dict[str, Any]:
    """Returns a frame as a change of the one before it.

    Args:
      frame: The frame; times are kept to 6 decimals, confidences to 3 digits.
      before: What the reader has seen last of this text, or None for the first frame.
      mask: MASK's id.
    """
    what = change(before or _EMPTY, frame, mask)
    stay = set(what.origins)
    cell = lambda j: _cell_to_json(what.start + j, what.new[j], frame.call)  # noqa: E731
    changed = {
        "removed": [what.start + i for i in range(len(what.old)) if i not in stay],
        "inserted": [cell(j) for j, i in enumerate(what.origins) if i is None],
        "altered": [
            cell(j)
            for j, i in enumerate(what.origins)
            if i is not None and what.old[i] != what.new[j]
        ],
    }
    places = {name: places for name, places in changed.items() if places}
    return {"call": frame.call, "time": round(frame.time, 6), **places}


def frame_from_json(values: Mapping[str, Any], before: Frame | None) -> Frame:
    """Returns the frame of frame_to_json().

    Args:
      values: What it returned.
      before: The frame that it had been given.

    Raises:
      ValueError: If the changes do not fit the frame before.
    """
    call, removed = values["call"], set(values.get("removed", ()))
    old = (before or _EMPTY).cells()
    if any(not 0 <= place < len(old) for place in removed):
        raise ValueError(f"call {call} removes what is not there")
    cells = [cell for place, cell in enumerate(old) if place not in removed]
    for place, *cell in values.get("inserted", ()):
        if not 0 <= place <= len(cells):
            raise ValueError(f"call {call} inserts at {place}, beyond the end")
        cells.insert(place, _cell_from_json(cell, call))
    for place, *cell in values.get("altered", ()):
        if not 0 <= place < len(cells):
            raise ValueError(f"call {call} alters what is not there")
        cells[place] = _cell_from_json(cell, call)
    return Frame.of(call, float(values["time"]), cells)


def _cell_to_json(place: int, cell: Cell, call: int) -> list[Any]:
    """Returns a cell without the end that says nothing."""
    # Probabilities are looked at, and 3 digits are a third of the size of a page.
    confidence = None if cell.confidence is None else float(f"{cell.confidence:.3g}")
    values = [confidence, cell.changed, cell.fixed]
    usual = [None, call, False]
    while values and values[-1] == usual[len(values) - 1]:
        values.pop()
    return [place, cell.token, *values]


def _cell_from_json(values: Sequence[Any], call: int) -> Cell:
    token, confidence, changed, fixed = [*values, *[None, call, False][len(values) - 1 :]]
    return Cell(token, changed, None if confidence is None else float(confidence), fixed)


def trace_to_json(trace: Trace, mask: int) -> dict[str, Any]:
    """Returns a trace as {"name", "details", "frames"}, the frames by frame_to_json()."""
    befores = (None, *trace.frames)
    frames = [
        frame_to_json(frame, before, mask)
        for frame, before in zip(trace.frames, befores, strict=False)
    ]
    return {"name": trace.name, "details": dict(trace.details), "frames": frames}


def trace_from_json(values: Mapping[str, Any]) -> Trace:
    """Returns the trace of trace_to_json().

    Raises:
      ValueError: If a frame does not fit the one before it.
    """
    frames: list[Frame] = []
    for frame in values["frames"]:
        frames.append(frame_from_json(frame, frames[-1] if frames else None))
    return Trace(values["name"], tuple(frames), dict(values["details"]))


def pieces_to_json(tokens: Iterable[int], piece: Piece) -> dict[str, str | list[int]]:
    """Returns what tokens stand for by their ids: a text, or bytes where they are not UTF-8.

    Args:
      tokens: Ids, repeated or not, MASK not among them.
      piece: The bytes of each.
    """
    return {str(token): _piece_to_json(piece(token)) for token in sorted(set(tokens))}


def _piece_to_json(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def player_data(traces: Sequence[Trace], piece: Piece, mask: int) -> dict[str, Any]:
    """Returns all that the player is given to begin with: {"mask", "pieces", "traces"}.

    Args:
      traces: What it can play; more may be added later.
      piece: The bytes of each token.
      mask: MASK's id.
    """
    tokens = {token for trace in traces for frame in trace.frames for token in frame.tokens}
    return {
        "mask": mask,
        "pieces": pieces_to_json(tokens - {mask}, piece),
        "traces": [trace_to_json(trace, mask) for trace in traces],
    }
