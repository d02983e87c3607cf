"""What all sources of text share: parts, documents, and the checks of both."""

import dataclasses
import glob
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

from flexmdm_jax.errors import UserError
from flexmdm_jax.files import check_local


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of a corpus that can be read on its own.

    Attributes:
      path: File, or name of the corpus.
      start: First byte, row group or example; what it counts is the source's affair.
      stop: The one after the last.
      size: About how many bytes it holds.
    """

    path: str
    start: int
    stop: int
    size: int


# A document's text, or what is wrong with the one that should be there.
Found = str | UserError


class Document(NamedTuple):
    """A document and where it is.

    Attributes:
      text: All of it.
      place: Returns file and line, or whatever its source calls the place. That may take as long
        as to read the file again.
    """

    text: str
    place: Callable[[], str]


@runtime_checkable
class Source(Protocol):
    """A kind of corpus, constructed from what follows `kind:` in its specification."""

    def parts(self, part_bytes: int) -> list[Part]:
        """Returns all parts in order, cut at about part_bytes where that is possible.

        Raises:
          UserError: If there are no files, or they are of another kind.
        """
        ...

    def documents(self, part: Part) -> Iterator[Found]:
        """Yields the documents of a part, and a UserError in the place of each unusable one."""
        ...

    def place(self, part: Part, number: int) -> str:
        """Returns where the number-th of what documents() yields of a part is, counted from 0.

        Errors call it the same.
        """
        ...


def find_files(pattern: str) -> list[pathlib.Path]:
    """Returns the files that match a pattern in order of their names, each of them once.

    As much of the pattern as there is on the disk is a name, whatever characters it holds. A file
    that links make known by several names, or by names without end, goes by the shortest.
    """
    named = pathlib.Path(check_local(pattern))
    folder = next(path for path in (named, *named.parents) if path.exists())
    names = ["."]
    if folder != named:
        rest = str(named.relative_to(folder))
        # A link back to a folder above is followed until the name becomes too long.
        names = glob.glob(rest, root_dir=folder, recursive=True)
    by_file = {}
    for path in sorted((folder / name for name in names), key=lambda path: (len(path.parts), path)):
        if path.is_file():
            by_file.setdefault(path.resolve(), path)
    return sorted(by_file.values())


def matching(pattern: str) -> list[pathlib.Path]:
    """Returns find_files(pattern).

    Raises:
      UserError: If there are none.
    """
    paths = find_files(pattern)
    if not paths and pattern and pathlib.Path(pattern).is_dir():
        raise UserError(f"{pattern} is a folder; name files in it, as '{pattern.rstrip('/')}/*'")
    if not paths:
        raise UserError(f"no file matches {pattern!r}; check the path")
    return paths


def pattern_and_field(rest: str) -> tuple[str, str]:
    """Returns both parts of GLOB[#field], the field being `text` unless told.

    The name of a file or folder may hold a # too.
    """
    pattern, mark, field = rest.rpartition("#")
    if not mark or "/" in field or pathlib.Path(rest).exists():
        return rest, "text"
    return pattern, field or "text"


def decode_text(data: bytes, where: str) -> Found:
    """Returns UTF-8 as text without a byte order mark, or the error that says where it is none."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return UserError(
            f"{where}: byte {error.start} is not UTF-8; convert the file (iconv -t UTF-8) first"
        )


def check_text(value: Any, field: str, where: Callable[[], str]) -> Found:
    """Returns the value of a field if it is text, or the error that says where it is none."""
    if not isinstance(value, str):
        return UserError(f"{where()}: field {field!r} is not text")
    try:
        # JSON can spell halves of surrogate pairs, which are no characters.
        value.isascii() or value.encode()
    except UnicodeEncodeError:
        return UserError(f"{where()}: field {field!r} holds half a surrogate pair")
    return value
