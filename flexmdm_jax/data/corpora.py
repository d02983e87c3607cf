"""Where text comes from: each source yields documents, one string each."""

import glob
import gzip
import json
import pathlib
from collections.abc import Callable, Iterator

from flexmdm_jax.errors import UserError


def stdlib_documents(_: str) -> Iterator[str]:
    """Yields Python's own help topics, with hard-wrapped lines joined into paragraphs.

    465 thousand characters of English prose that every Python carries: a corpus for demonstrations
    that needs no download.
    """
    from pydoc_data import topics

    for _, document in sorted(topics.topics.items()):
        paragraphs = (" ".join(part.split()) for part in document.split("\n\n"))
        yield "\n\n".join(part for part in paragraphs if part)


def text_documents(pattern: str) -> Iterator[str]:
    """Yields the files that match a pattern, in order of their names."""
    for path in _matching(pattern):
        yield _decode(path.read_bytes(), str(path))


def jsonl_documents(pattern: str) -> Iterator[str]:
    """Yields one field of every line of the JSON-lines files GLOB[#field] (plain or .gz)."""
    pattern, _, field = pattern.partition("#")
    field = field or "text"
    for path in _matching(pattern):
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                where = f"{path}, line {number}"
                if line.strip():
                    yield _field(_decode(line, where), field, where)


SOURCES: dict[str, Callable[[str], Iterator[str]]] = {
    "stdlib": stdlib_documents,
    "text": text_documents,
    "jsonl": jsonl_documents,
}


def read_documents(source: str) -> Iterator[str]:
    """Returns the documents of a source.

    Args:
      source: `stdlib`, `text:GLOB` or `jsonl:GLOB[#field]` (field `text` unless told).

    Raises:
      UserError: If the kind is unknown, no file matches, a line has no such field, or bytes are
        not UTF-8.
    """
    kind, _, rest = source.partition(":")
    if kind not in SOURCES:
        raise UserError(f"unknown source {source!r}; choose one of {', '.join(SOURCES)}")
    return SOURCES[kind](rest)


def _matching(pattern: str) -> list[pathlib.Path]:
    paths = sorted(pathlib.Path(name) for name in glob.glob(pattern, recursive=True))
    if not paths:
        raise UserError(f"no file matches {pattern!r}; check the path given in --source")
    return paths


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: byte {error.start} is not UTF-8; convert the file (iconv -t UTF-8) first"
        ) from None


def _field(line: str, field: str, where: str) -> str:
    try:
        value = json.loads(line)[field]
    except json.JSONDecodeError:
        raise UserError(f"{where}: not JSON; every line must be an object") from None
    except (KeyError, TypeError):
        raise UserError(f"{where}: no field {field!r}; name another with GLOB#field") from None
    if not isinstance(value, str):
        raise UserError(f"{where}: field {field!r} is not text")
    return value


def paragraphs(document: str) -> list[str]:
    """Returns the parts of a document between blank lines that hold anything but space."""
    parts = (part.strip("\n") for part in document.split("\n\n"))
    return [part for part in parts if part.strip()]


def split_document(
    text: str, encode: Callable[[str], list[int]], max_tokens: int
) -> Iterator[tuple[str, list[int]]]:
    """Yields (paragraph, tokens) for the pieces of a document (paper, Appendix F.1).

    Documents are split at blank lines; a paragraph longer than max_tokens is cut in halves until
    every piece fits.
    """
    for paragraph in paragraphs(text):
        for piece in _halves(encode(paragraph), max_tokens):
            yield paragraph, piece


def _halves(tokens: list[int], max_tokens: int) -> Iterator[list[int]]:
    if len(tokens) > max_tokens:
        middle = len(tokens) // 2
        yield from _halves(tokens[:middle], max_tokens)
        yield from _halves(tokens[middle:], max_tokens)
    elif tokens:
        yield tokens
