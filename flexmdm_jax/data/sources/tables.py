"""Sources with columns: Parquet, saved datasets of Hugging Face, TFDS, and OpenWebText."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import ClassVar

from flexmdm_jax.data.sources.documents import (
    Found,
    Part,
    check_text,
    decode_text,
    find_files,
    matching,
    pattern_and_field,
)
from flexmdm_jax.errors import UserError, first_line


@dataclasses.dataclass(frozen=True)
class Parquet:
    """One column of Parquet files GLOB[#field], cut at row groups."""

    rest: str

    def parts(self, part_bytes: int) -> list[Part]:
        """Returns a part for each row group."""
        from pyarrow import parquet

        pattern, field = pattern_and_field(self.rest)
        found = []
        for path in matching(pattern):
            try:
                metadata = parquet.read_metadata(path)
            except (OSError, ValueError) as error:
                raise UserError(f"{path}: not a Parquet file ({first_line(error)})") from None
            _check_field(str(path), field, metadata.schema.to_arrow_schema().names)
            for group in range(metadata.num_row_groups):
                size = metadata.row_group(group).total_byte_size
                found.append(Part(str(path), group, group + 1, size))
        return found

    def documents(self, part: Part) -> Iterator[Found]:
        """Yields the column of each row."""
        from pyarrow import ArrowException, parquet

        _, field = pattern_and_field(self.rest)
        try:
            file = parquet.ParquetFile(part.path)
            groups = list(range(part.start, part.stop))
            first = _first_row(file, part)
            for batch in file.iter_batches(256, row_groups=groups, columns=[field]):
                yield from _column(batch.column(0), field, part.path, first)
                first += batch.num_rows
        except (ArrowException, OSError) as error:
            yield UserError(f"{part.path}: damaged ({first_line(error)}); fetch it again")

    def place(self, part: Part, number: int) -> str:
        """Returns file and row, counted from 0."""
        from pyarrow import parquet

        return f"{part.path}, row {_first_row(parquet.ParquetFile(part.path), part) + number}"


def _first_row(file, part: Part) -> int:
    """Returns the number of the first row of a part of a Parquet file."""
    return sum(file.metadata.row_group(group).num_rows for group in range(part.start))


@dataclasses.dataclass(frozen=True)
class SavedDataset:
    """A dataset that Hugging Face's `datasets` saved to a folder: DIR[#field], Arrow files."""

    rest: str

    def parts(self, part_bytes: int) -> list[Part]:
        """Returns a part for each file."""
        folder = pathlib.Path(pattern_and_field(self.rest)[0])
        if (folder / "dataset_dict.json").is_file():
            splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
            one = splits[0] if splits else "train"
            raise UserError(f"{folder} holds splits: choose one, as in hf:{folder}/{one}")
        try:
            state = json.loads((folder / "state.json").read_text())
            files = [folder / file["filename"] for file in state["_data_files"]]
            if state.get("_indices_data_files"):
                raise UserError(f"{folder} is a selection; call flatten_indices() and save again")
            return [Part(str(path), 0, 1, path.stat().st_size) for path in files]
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder}: no dataset that save_to_disk() wrote ({first_line(error)})"
            ) from None

    def documents(self, part: Part) -> Iterator[Found]:
        """Yields the column of each row."""
        import pyarrow

        _, field = pattern_and_field(self.rest)
        try:
            with pyarrow.memory_map(part.path) as file, pyarrow.ipc.open_stream(file) as reader:
                _check_field(part.path, field, reader.schema.names)
                first = 0
                for batch in reader:
                    yield from _column(batch.column(field), field, part.path, first)
                    first += batch.num_rows
        except (pyarrow.ArrowException, OSError) as error:
            yield UserError(f"{part.path}: damaged ({first_line(error)}); fetch it again")

    def place(self, part: Part, number: int) -> str:
        """Returns file and row, counted from 0."""
        return f"{part.path}, row {number}"


@dataclasses.dataclass(frozen=True)
class TensorFlowDataset:
    """One field of a TFDS corpus NAME[/config][:split][#field], read without TensorFlow."""

    rest: str
    _EXAMPLES: ClassVar[int] = 10_000  # of a part

    def parts(self, part_bytes: int) -> list[Part]:
        """Returns parts of 10,000 examples."""
        total = len(self._open())
        return [
            Part(self.rest, start, min(start + self._EXAMPLES, total), part_bytes)
            for start in range(0, total, self._EXAMPLES)
        ]

    def documents(self, part: Part) -> Iterator[Found]:
        """Yields the field of each example."""
        field = self.rest.partition("#")[2] or "text"
        source = self._open()
        for number in range(part.start, part.stop):
            where = self.place(part, number - part.start)
            try:
                example = source[number]
            # ArrayRecord reports damage in many exception types.
            except Exception as error:
                yield UserError(f"{where}: unreadable ({first_line(error)}); prepare it again")
                continue
            if field not in example:
                yield UserError(f"{where}: no field {field!r}; name another with NAME#field")
            elif isinstance(example[field], bytes):
                yield decode_text(example[field], where)
            else:
                yield check_text(example[field], field, lambda where=where: where)

    def place(self, part: Part, number: int) -> str:
        """Returns corpus and example."""
        return f"{part.path}, example {part.start + number}"

    def _open(self):
        import tensorflow_datasets as tfds

        name, _, split = self.rest.partition("#")[0].partition(":")
        try:
            return tfds.data_source(name, split=split or "train", download=False)
        except (Exception, SystemExit) as error:
            raise UserError(
                f"tfds:{name}: {first_line(error)}; prepare it with `tfds build {name} "
                "--file_format=array_record` or set TFDS_DATA_DIR"
            ) from None


@dataclasses.dataclass(frozen=True)
class OpenWebText:
    """The OpenWebText corpus as published on the Hugging Face Hub: 80 Parquet files in a folder.

    8,013,769 documents (Gokaslan and Cohen, 2019).
    """

    rest: str = ""
    REPOSITORY: ClassVar[str] = "Skylion007/openwebtext"
    FILES: ClassVar[int] = 80
    FOLDER: ClassVar[str] = "data/raw/openwebtext"

    def _parquet(self) -> Parquet:
        folder = self.rest or self.FOLDER
        return Parquet(f"{folder}/**/train-*-of-{self.FILES:05d}.parquet#text")

    def parts(self, part_bytes: int) -> list[Part]:
        """Returns a part for each row group, once all files are there."""
        source, folder = self._parquet(), self.rest or self.FOLDER
        found = find_files(pattern_and_field(source.rest)[0])
        if len(found) != self.FILES:
            raise UserError(
                f"{folder} holds {len(found)} of the {self.FILES} files "
                f"train-XXXXX-of-{self.FILES:05d}.parquet of OpenWebText; fetch them with: "
                f"hf download {self.REPOSITORY} --repo-type=dataset --include='*.parquet' "
                f"--local-dir={folder} (another folder: --source=openwebtext:FOLDER)"
            )
        return source.parts(part_bytes)

    def documents(self, part: Part) -> Iterator[Found]:
        """Yields the text of each row."""
        return self._parquet().documents(part)

    def place(self, part: Part, number: int) -> str:
        """Returns file and row, counted from 0."""
        return self._parquet().place(part, number)


def _column(column, field: str, path: str, first: int) -> Iterator[Found]:
    for number, value in enumerate(column):
        where = f"{path}, row {first + number}"
        try:
            text = value.as_py()
        except UnicodeDecodeError as error:
            yield UserError(f"{where}: byte {error.start} of field {field!r} is not UTF-8")
            continue
        yield check_text(text, field, lambda where=where: where)


def _check_field(path: str, field: str, names: list[str]) -> None:
    if field not in names:
        raise UserError(f"{path}: no field {field!r}; name one of {', '.join(names)} with #field")
