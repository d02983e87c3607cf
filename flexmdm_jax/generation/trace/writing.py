"""Traces as files, of the kind that a name asks for."""

import pathlib
from collections.abc import Callable, Sequence

from flexmdm_jax.errors import UserError
from flexmdm_jax.files import write_atomically
from flexmdm_jax.generation.trace.animation import gif
from flexmdm_jax.generation.trace.encoding import Piece
from flexmdm_jax.generation.trace.frames import Trace
from flexmdm_jax.generation.trace.page import page

Render = Callable[[Sequence[Trace], Piece, int], bytes]


def renderer(path: pathlib.Path) -> Render:
    """Returns what makes a file's content of (traces, piece, mask), by the end of its name.

    Raises:
      UserError: If it ends in neither .html nor .gif; ask before there is anything to write.
    """
    if path.suffix.lower() not in _RENDERERS:
        raise UserError(
            f"{path}: traces are written as .html, a page that plays them, or .gif; name one of "
            "the two"
        )
    return _RENDERERS[path.suffix.lower()]


def write_trace(path: pathlib.Path, traces: Sequence[Trace], piece: Piece, mask: int) -> None:
    """Writes traces as a page (.html) or an animation (.gif), whole or not at all.

    Args:
      path: The file; one that is there is replaced.
      traces: What is shown; a GIF shows the first few.
      piece: The bytes of each token.
      mask: MASK's id.

    Raises:
      UserError: If the file's name ends in something else.
      OSError: If it cannot be written; an old file stays as it was.
    """
    write_atomically(path, renderer(path)(traces, piece, mask))


def _page(traces: Sequence[Trace], piece: Piece, mask: int) -> bytes:
    return page(traces, piece, mask).encode()


_RENDERERS: dict[str, Render] = {".html": _page, ".gif": gif}
