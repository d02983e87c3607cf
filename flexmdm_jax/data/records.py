"""Prepared datasets on disk: ArrayRecord files of token sequences, and dataset.json beside them."""

import collections
import dataclasses
import hashlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from flexmdm_jax.data.tokenizers import (
    Tokenizer,
    load_tokenizer,
    save_tokenizer,
    tokenizer_hash,
)
from flexmdm_jax.errors import UserError
from flexmdm_jax.types import Vocabulary

FORMAT_VERSION = 2
TRAIN, VALIDATION = "train", "validation"
_METADATA = "dataset.json"
_TOKENIZER = "tokenizer"
# Token ids need 31 bits; the highest bit of a stored word says that the token is fixed.
_FIXED = np.uint32(1 << 31)


@dataclasses.dataclass(frozen=True)
class Sequence:
    """A stored sequence.

    Attributes:
      tokens: Token ids [n], the last of them END.
      fixed: True [n] where a token is given and never generated (a prompt); END counts as text.
    """

    tokens: np.ndarray
    fixed: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared dataset.

    Attributes:
      directory: Where it lies.
      vocabulary: Of its tokenizer.
      tokenizer_sha256: Hash of the tokenizer the tokens were made with.
      max_length: Slots of the longest sequence, END included.
      num_sequences: By split.
      lengths: By split, how many sequences have each length (END not counted).
      task: What the task that wrote the dataset says of itself; None for text.
    """

    directory: pathlib.Path
    vocabulary: Vocabulary
    tokenizer_sha256: str
    max_length: int
    num_sequences: dict[str, int]
    lengths: dict[str, dict[int, int]]
    task: dict[str, Any] | None = None

    def path(self, split: str) -> str:
        """Returns the file that holds a split."""
        return str(self.directory / f"{split}.array_record")

    def tokenizer(self) -> Tokenizer:
        """Returns the dataset's tokenizer."""
        return load_tokenizer(self.directory / _TOKENIZER)


def encode_record(tokens: Iterable[int], fixed: Iterable[bool] | None = None) -> bytes:
    """Returns a token sequence as stored: little-endian unsigned 32-bit integers.

    Args:
      tokens: Token ids [n] below 2³¹.
      fixed: Which of them [n] are given and never generated; none unless told.
    """
    words = np.asarray(tokens, dtype="<u4")
    if fixed is not None:
        words = np.where(np.asarray(fixed, bool), words | _FIXED, words).astype("<u4")
    return words.tobytes()


def decode_record(record: bytes) -> Sequence:
    """Returns the sequence of a stored record; its tokens are int32."""
    words = np.frombuffer(record, dtype="<u4")
    return Sequence((words & ~_FIXED).astype(np.int32), words >= _FIXED)


def split_of(text: str, seed: int, validation_fraction: float) -> str:
    """Returns the split a text belongs to; equal texts always share one, so nothing leaks."""
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    level = int.from_bytes(digest[:8], "big") / 2**64
    return VALIDATION if level < validation_fraction else TRAIN


def write_dataset(
    directory: pathlib.Path,
    sequences: Iterable[tuple],
    tokenizer: Tokenizer,
    *,
    max_length: int,
    origin: dict[str, Any],
    task: dict[str, Any] | None = None,
) -> Dataset:
    """Writes sequences and returns the dataset; the directory appears only when it is complete.

    Args:
      directory: Must not exist yet, or be empty.
      sequences: (split, tokens without END), or (split, tokens, which of them are fixed).
      tokenizer: What the tokens were made with; saved beside them.
      max_length: Slots of the longest sequence, END included.
      origin: What else dataset.json records: source, split seed and so on.
      task: What a task that is not plain text has to say of itself, as JSON.

    Raises:
      UserError: If the directory holds files already, or a split stays empty.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} exists already; choose another --out or delete it first")
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f"{directory.name}.", dir=directory.parent))
    try:
        lengths = _write_records(partial, sequences, tokenizer.vocabulary.end)
        save_tokenizer(tokenizer, partial / _TOKENIZER)
        metadata = {
            "format_version": FORMAT_VERSION,
            **origin,
            **({} if task is None else {"task": task}),
            "max_length": max_length,
            "vocabulary": dataclasses.asdict(tokenizer.vocabulary),
            "tokenizer": {"kind": tokenizer.kind, "sha256": tokenizer_hash(tokenizer)},
            "splits": {split: _statistics(counts) for split, counts in lengths.items()},
        }
        (partial / _METADATA).write_text(json.dumps(metadata, indent=2) + "\n")
        partial.chmod(0o755)
        partial.replace(directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return open_dataset(directory)


def _write_records(directory, sequences, end) -> dict[str, collections.Counter]:
    from array_record.python import array_record_module

    writers = {
        split: array_record_module.ArrayRecordWriter(
            str(directory / f"{split}.array_record"), "group_size:1"
        )
        for split in (TRAIN, VALIDATION)
    }
    lengths = {split: collections.Counter() for split in writers}
    for split, tokens, *fixed in sequences:
        flags = [*fixed[0], False] if fixed else None
        writers[split].write(encode_record([*tokens, end], flags))
        lengths[split][len(tokens)] += 1
    for split, writer in writers.items():
        writer.close()
        if not lengths[split]:
            raise UserError(
                f"the corpus leaves the {split} split empty; "
                "give more text or another --validation_fraction"
            )
    return lengths


def _statistics(lengths: collections.Counter) -> dict[str, object]:
    return {
        "sequences": lengths.total(),
        "tokens": sum(length * count for length, count in lengths.items()),
        "lengths": {str(length): lengths[length] for length in sorted(lengths)},
    }


def open_dataset(directory: str | pathlib.Path) -> Dataset:
    """Returns the prepared dataset in a directory.

    Raises:
      UserError: If there is none, or it is incomplete or of an unknown format.
    """
    directory = pathlib.Path(directory)
    where = directory / _METADATA
    try:
        metadata = json.loads(where.read_text())
    except OSError:
        raise UserError(
            f"no prepared dataset in {directory}; make one with python -m flexmdm_jax.prepare"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error}); prepare the dataset again") from None
    if metadata.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{where}: format version {metadata.get('format_version')!r}, but this version of "
            f"flexmdm_jax reads {FORMAT_VERSION}; prepare the dataset again"
        )
    try:
        splits = metadata["splits"]
        dataset = Dataset(
            directory=directory,
            vocabulary=Vocabulary(**metadata["vocabulary"]),
            tokenizer_sha256=metadata["tokenizer"]["sha256"],
            max_length=metadata["max_length"],
            num_sequences={split: splits[split]["sequences"] for split in splits},
            lengths={
                split: {int(n): count for n, count in splits[split]["lengths"].items()}
                for split in splits
            },
            task=metadata.get("task"),
        )
    except KeyError as error:
        raise UserError(f"{where}: no field {error}; prepare the dataset again") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None
    for split in dataset.num_sequences:
        if not pathlib.Path(dataset.path(split)).is_file():
            raise UserError(f"{dataset.path(split)} is missing; prepare the dataset again")
    return dataset


def read_split(dataset: Dataset, split: str) -> Iterator[np.ndarray]:
    """Yields the tokens of a split's sequences in stored order, each ending in END."""
    return (sequence.tokens for sequence in read_sequences(dataset, split))


def read_sequences(dataset: Dataset, split: str) -> Iterator[Sequence]:
    """Yields the sequences of a split in stored order."""
    from array_record.python import array_record_data_source

    with array_record_data_source.ArrayRecordDataSource([dataset.path(split)]) as source:
        for position in range(len(source)):
            yield decode_record(source[position])
