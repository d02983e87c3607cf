"""What all sources of text share: parts, documents, and the checks of both."""

import dataclasses
import glob
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

from flexmdm_jax.errors import UserError


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


# A document, or what is wrong with the one that should be there.
Found = str | UserError


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


def matching(pattern: str) -> list[pathlib.Path]:
    """Returns the files that match a pattern in order of their names.

    Raises:
      UserError: If there are none.
    """
    paths = sorted(pathlib.Path(name) for name in glob.glob(pattern, recursive=True))
    paths = [path for path in paths if path.is_file()]
    if not paths:
        raise UserError(f"no file matches {pattern!r}; check the path given in --source")
    return paths


def decode_text(data: bytes, where: str) -> Found:
    """Returns UTF-8 as text, or the error that says where it is none."""
    try:
        return data.decode("utf-8")
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


def first_line(error: BaseException) -> str:
    """Returns what an exception says, cut to one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
