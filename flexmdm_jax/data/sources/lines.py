"""Sources of plain text: Python's help topics, text files, JSON lines."""

import dataclasses
import gzip
import io
import itertools
import json
import pathlib
import zlib
from collections.abc import Iterator
from typing import ClassVar

import zstandard

from flexmdm_jax.data.sources.documents import (
    Found,
    Part,
    check_text,
    decode_text,
    matching,
    pattern_and_field,
)
from flexmdm_jax.errors import UserError, first_line


@dataclasses.dataclass(frozen=True)
class Stdlib:
    """Python's own help topics, with hard-wrapped lines joined into paragraphs.

    465 thousand characters of English prose that every Python carries: a corpus for demonstrations
    that needs no download.
    """

    rest: str = ""

    def __post_init__(self):
        if self.rest:
            raise UserError(f"source 'stdlib:{self.rest}': nothing follows stdlib, write 'stdlib'")

    def parts(self, part_bytes: int) -> list[Part]:
        """Returns the whole as one part."""
        return [Part("stdlib", 0, 1, 500_000)]

    def documents(self, part: Part) -> Iterator[Found]:
        """Yields the help topics."""
        from pydoc_data import topics

        for _, document in sorted(topics.topics.items()):
            paragraphs = (" ".join(part.split()) for part in document.split("\n\n"))
            yield "\n\n".join(part for part in paragraphs if part)

    def place(self, part: Part, number: int) -> str:
        """Returns the help topic."""
        from pydoc_data import topics

        return f"stdlib, topic {sorted(topics.topics)[number]!r}"


@dataclasses.dataclass(frozen=True)
class TextFiles:
    """Files that match a pattern, each one document."""

    pattern: str

    def parts(self, part_bytes: int) -> list[Part]:
        """Returns a part for each file."""
        return [Part(str(path), 0, 1, path.stat().st_size) for path in matching(self.pattern)]

    def documents(self, part: Part) -> Iterator[Found]:
        """Yields the one document."""
        yield decode_text(pathlib.Path(part.path).read_bytes(), part.path)

    def place(self, part: Part, number: int) -> str:
        """Returns the file."""
        return part.path


@dataclasses.dataclass(frozen=True)
class JsonLines:
    """One field of every line of JSON-lines files GLOB[#field], plain, .gz or .zst.

    A plain file is cut into ranges of bytes; a line belongs to the part that its first byte is in.
    """

    rest: str
    _PACKED: ClassVar[tuple[str, ...]] = (".gz", ".zst")

    def parts(self, part_bytes: int) -> list[Part]:
        """Returns parts of about part_bytes; compressed files stay whole."""
        found = []
        for path in matching(pattern_and_field(self.rest)[0]):
            size = path.stat().st_size
            step = size if path.suffix in self._PACKED else part_bytes
            for start in range(0, size, step or 1):
                stop = min(start + step, size)
                found.append(Part(str(path), start, stop, stop - start))
        return found

    def documents(self, part: Part) -> Iterator[Found]:
        """Yields the field of each line that is not blank."""
        number = 0
        try:
            for number, line in self._lines(part):
                if line.strip():
                    yield self._document(line, part, number)
        except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
            yield UserError(f"{part.path}: damaged after line {number} ({error}); fetch it again")

    def place(self, part: Part, number: int) -> str:
        """Returns file and line."""
        found = (number for number, line in self._lines(part) if line.strip())
        return _line(part, next(itertools.islice(found, number, None)))

    def _lines(self, part: Part) -> Iterator[tuple[int, bytes]]:
        """Yields the lines of a part, numbered from 1."""
        path = pathlib.Path(part.path)
        packed = path.suffix in self._PACKED
        number = 0
        with _open(path) as lines:
            if not packed and part.start:
                lines.seek(part.start - 1)
                lines.readline()
            while packed or lines.tell() < part.stop:
                line = lines.readline()
                if not line:
                    break
                number += 1
                yield number, line

    def _document(self, line: bytes, part: Part, number: int) -> Found:
        field = pattern_and_field(self.rest)[1]
        try:
            value = json.loads(line)[field]
        except UnicodeDecodeError:
            return decode_text(line, _line(part, number))
        except json.JSONDecodeError:
            return UserError(f"{_line(part, number)}: not JSON; every line must be an object")
        except (ValueError, RecursionError) as error:
            return UserError(f"{_line(part, number)}: cannot be read ({first_line(error)})")
        except (KeyError, TypeError, IndexError):
            where = _line(part, number)
            return UserError(f"{where}: no field {field!r}; name another with GLOB#field")
        return check_text(value, field, lambda: _line(part, number))


def _open(path: pathlib.Path) -> io.BufferedIOBase:
    if path.suffix == ".gz":
        return gzip.open(path)
    if path.suffix == ".zst":
        return io.BufferedReader(_ZstdFile(path), 1 << 20)
    return path.open("rb")


class _ZstdFile(io.RawIOBase):
    """Decompresses all frames of a file; zstandard's own reader takes a file cut short as whole."""

    def __init__(self, path: pathlib.Path):
        self._file = path.open("rb")
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._frame = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._ready:
            if self._frame and self._frame.eof:
                packed, self._frame = self._frame.unused_data, None
            else:
                packed = b""
            packed = packed or self._file.read(1 << 17)
            if not packed:
                if self._frame:
                    raise EOFError("the file ends within a frame")
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            self._ready = memoryview(self._frame.decompress(packed))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _line(part: Part, number: int) -> str:
    """Returns where the number-th line of a part is, counted from the start of its file."""
    path = pathlib.Path(part.path)
    if part.start and path.suffix not in JsonLines._PACKED:
        with path.open("rb") as file:
            left = part.start
            while left and (block := file.read(min(left, 1 << 20))):
                number += block.count(b"\n")
                left -= len(block)
            file.seek(part.start - 1)
            # A line cut by the start of the part ends in it.
            number += file.read(1) != b"\n"
    return f"{part.path}, line {number}"
