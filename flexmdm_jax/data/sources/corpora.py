"""Where text comes from: a corpus by its specification, whole or in units of work."""

import functools
from collections.abc import Iterable, Iterator

from flexmdm_jax.data.sources.documents import Document, Part, Source
from flexmdm_jax.data.sources.lines import JsonLines, Stdlib, TextFiles
from flexmdm_jax.data.sources.tables import OpenWebText, Parquet, SavedDataset, TensorFlowDataset
from flexmdm_jax.errors import UserError
from flexmdm_jax.fields import nearest
from flexmdm_jax.files import check_local

SOURCES: dict[str, type[Source]] = {
    "stdlib": Stdlib,
    "text": TextFiles,
    "jsonl": JsonLines,
    "parquet": Parquet,
    "hf": SavedDataset,
    "tfds": TensorFlowDataset,
    "openwebtext": OpenWebText,
}


def parse_source(spec: str) -> Source:
    """Returns the source a specification names.

    Args:
      spec: `stdlib`, `text:GLOB`, `jsonl:GLOB[#field]`, `parquet:GLOB[#field]`, `hf:DIR[#field]`,
        `tfds:NAME[/config][:split][#field]` or `openwebtext[:DIR]`; the field is `text` unless
        told.

    Raises:
      UserError: If the kind is unknown, or an address stands where a path should.
    """
    kind, _, rest = spec.partition(":")
    if kind not in SOURCES:
        raise UserError(f"unknown source {spec!r}{nearest(kind, SOURCES)}")
    return SOURCES[kind](check_local(rest))


def read_documents(spec: str) -> Iterator[str]:
    """Yields the text of all documents of a source; raises as placed_documents() does."""
    return (document.text for document in placed_documents(spec))


def placed_documents(spec: str) -> Iterator[Document]:
    """Yields all documents of a source.

    Raises:
      UserError: If nothing matches, or at the first document that is unusable.
    """
    source = parse_source(spec)
    for document in found_in(source, source.parts(1 << 30)):
        if isinstance(document, UserError):
            raise document
        yield document


def found_in(source: Source, parts: Iterable[Part]) -> Iterator[Document | UserError]:
    """Yields the documents of parts of a source, and a UserError in place of unusable ones."""
    for part in parts:
        for number, found in enumerate(source.documents(part)):
            if isinstance(found, UserError):
                yield found
            else:
                yield Document(found, functools.partial(source.place, part, number))


def units_of(parts: Iterable[Part], unit_bytes: int) -> list[list[Part]]:
    """Returns parts in order, grouped into units of work of about unit_bytes."""
    units, size = [], unit_bytes
    for part in parts:
        if size >= unit_bytes:
            units.append([])
            size = 0
        units[-1].append(part)
        size += part.size
    return units
