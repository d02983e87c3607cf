"""Prepared datasets on disk: shards of token sequences, and dataset.json beside them."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from flexmdm_jax.data.storage.shards import (
    SPLITS,
    TRAIN,
    VALIDATION,
    RecordReader,
    Sequence,
    ShardWriter,
    add_statistics,
    decode_record,
    encode_record,
    lengths_path,
    shard_name,
)
from flexmdm_jax.data.tokenizers import (
    Tokenizer,
    load_tokenizer,
    save_tokenizer,
    tokenizer_hash,
)
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import json_text, nearest_folder, new_folder, write_atomically
from flexmdm_jax.types import Vocabulary

__all__ = [
    "FORMAT_VERSION",
    "SPLITS",
    "TRAIN",
    "VALIDATION",
    "Dataset",
    "Sequence",
    "Share",
    "decode_record",
    "encode_record",
    "open_dataset",
    "read_sequences",
    "read_split",
    "save_dataset",
    "split_of",
    "write_dataset",
]

FORMAT_VERSION = 2
METADATA, TOKENIZER = "dataset.json", "tokenizer"


@dataclasses.dataclass(frozen=True)
class Share:
    """A dataset's part in a mixture.

    Attributes:
      num_sequences: Its sequences by split.
      weight: Its share of the training examples.
    """

    num_sequences: dict[str, int]
    weight: float


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared dataset, or several of them mixed.

    Attributes:
      directory: Where it lies (the first one, if several are mixed).
      vocabulary: Of its tokenizer.
      tokenizer_sha256: Hash of the tokenizer the tokens were made with.
      max_length: Slots of the longest sequence, END included.
      num_sequences: By split.
      lengths: By split, how many sequences have each length (END not counted).
      mean_length: Of a training example, END not counted.
      shards: By split, the files in the order of their records.
      sets: The datasets that are mixed; a dataset of its own is the only one.
      task: What the task that wrote the dataset says of itself; None for text.
      metadata: The whole of dataset.json.
    """

    directory: pathlib.Path
    vocabulary: Vocabulary
    tokenizer_sha256: str
    max_length: int
    num_sequences: dict[str, int]
    lengths: dict[str, dict[int, int]]
    mean_length: float
    shards: dict[str, list[pathlib.Path]]
    sets: list[Share]
    task: dict[str, Any] | None
    metadata: dict[str, Any]

    @property
    def sha256(self) -> str:
        """SHA-256 of what dataset.json says of the splits: lengths, and every shard's own SHA-256.

        Of a mixture, of all its datasets in order. Datasets of older versions do not record their
        shards' hashes; theirs covers the lengths alone.
        """
        text = "".join(json_text(_hashed(part["splits"]), sort_keys=True) for part in self._parts)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def num_given(self) -> int | None:
        """Returns how many tokens of the training split are fixed; None if nobody counted them."""
        counts = [part["splits"][TRAIN].get("given") for part in self._parts]
        return None if None in counts else sum(counts)

    @property
    def _parts(self) -> list[dict[str, Any]]:
        """Returns dataset.json of each dataset that is mixed."""
        return self.metadata.get("mixture", [self.metadata])

    def tokenizer(self) -> Tokenizer:
        """Returns the dataset's tokenizer.

        Raises:
          UserError: If its files are not those the tokens were made with.
        """
        tokenizer = load_tokenizer(self.directory / TOKENIZER)
        same = tokenizer_hash(tokenizer) == self.tokenizer_sha256
        if not same or tokenizer.vocabulary != self.vocabulary:
            raise UserError(
                f"{self.directory / TOKENIZER} is not the tokenizer that {METADATA} names; "
                "prepare the dataset again"
            )
        return tokenizer


def _hashed(splits: dict[str, Any]) -> dict[str, Any]:
    """Returns what is said of the splits without what older versions did not say."""
    return {
        split: {name: value for name, value in said.items() if name != "given"}
        for split, said in splits.items()
    }


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
    """Writes sequences as one shard a split and returns the dataset.

    The directory appears only when it is complete.

    Args:
      directory: Must not exist yet, or be empty.
      sequences: (split, tokens without END), or (split, tokens, which of them are fixed).
      tokenizer: What the tokens were made with; saved beside them.
      max_length: Slots of the longest sequence, END included.
      origin: What else dataset.json records: source, split seed and so on. It is looked at when all
        sequences are written, so that what yields them can note there what it left out.
      task: What a task that is not plain text has to say of itself, as JSON.

    Raises:
      UserError: If the directory holds files already, or a split stays empty.
    """
    with new_folder(directory) as partial:
        with ShardWriter(partial, 0, 1, tokenizer.vocabulary.end) as writer:
            for sequence in sequences:
                writer.write(*sequence)
            written = writer.close()
        save_tokenizer(tokenizer, partial / TOKENIZER)
        origin = origin if task is None else origin | {"task": task}
        save_dataset(partial, [written], tokenizer, max_length=max_length, origin=origin)
    return open_dataset(directory)


def save_dataset(
    directory: pathlib.Path,
    written: list[dict[str, dict[str, Any]]],
    tokenizer: Tokenizer,
    *,
    max_length: int,
    origin: dict[str, Any],
) -> None:
    """Writes dataset.json beside shards that are complete.

    Args:
      directory: Holds the shards.
      written: What ShardWriter.close() said of each, in order.
      tokenizer: What the tokens were made with.
      max_length: Slots of the longest sequence, END included.
      origin: What else to record.

    Raises:
      UserError: If a split has no sequences.
    """
    splits = {}
    for split in SPLITS:
        splits[split] = add_statistics([shard[split] for shard in written])
        names = [shard_name(split, number, len(written)) for number in range(len(written))]
        splits[split]["shards"] = names
        splits[split]["sha256"] = [shard[split]["sha256"] for shard in written]
        if not splits[split]["sequences"]:
            raise UserError(
                f"the corpus leaves the {split} split empty; "
                "give more text or another validation_fraction"
            )
    metadata = {
        "format_version": FORMAT_VERSION,
        **origin,
        "max_length": max_length,
        "vocabulary": dataclasses.asdict(tokenizer.vocabulary),
        "tokenizer": {"kind": tokenizer.kind, "sha256": tokenizer_hash(tokenizer)},
        "splits": splits,
    }
    write_atomically(directory / METADATA, (json_text(metadata, indent=2) + "\n").encode())


def open_dataset(directory: str | pathlib.Path) -> Dataset:
    """Returns the prepared dataset in a directory.

    Raises:
      UserError: If there is none, or it is incomplete or of an unknown format.
    """
    directory = pathlib.Path(directory)
    where = directory / METADATA
    try:
        metadata = json.loads(where.read_text())
    except OSError:
        advice = nearest_folder(directory, METADATA) or (
            "; make one with python -m flexmdm_jax.prepare"
        )
        raise UserError(f"no prepared dataset in {directory}{advice}") from None
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error}); prepare the dataset again") from None
    if not isinstance(metadata, dict):
        raise UserError(f"{where} holds no fields; prepare the dataset again")
    if metadata.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{where}: format version {metadata.get('format_version')!r}, but this version of "
            f"flexmdm_jax reads {FORMAT_VERSION}; prepare the dataset again"
        )
    try:
        _check_counts(metadata["splits"], where)
        dataset = _parse(directory, metadata)
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"{where}: no field {error}; prepare the dataset again") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}; prepare the dataset again") from None
    _check_shards(dataset)
    return dataset


def _check_counts(splits: dict[str, Any], where: pathlib.Path) -> None:
    """Raises UserError unless what is said of each split agrees with itself."""
    for split in SPLITS:
        said = splits[split]
        lengths = {int(length): count for length, count in said["lengths"].items()}
        tokens = sum(length * count for length, count in lengths.items())
        if (said["sequences"], said["tokens"]) != (sum(lengths.values()), tokens):
            raise UserError(
                f"{where}: sequences, tokens and lengths of the {split} split contradict each "
                "other; prepare the dataset again"
            )
        # Older versions did not count what is given.
        given = said.get("given")
        if given is not None and (type(given) is not int or not 0 <= given <= said["tokens"]):
            raise UserError(
                f"{where}: given = {given!r} of the {split} split is no number of its "
                f"{said['tokens']} tokens; prepare the dataset again"
            )


def _parse(directory: pathlib.Path, metadata: dict[str, Any]) -> Dataset:
    splits = metadata["splits"]
    return Dataset(
        directory=directory,
        vocabulary=Vocabulary(**metadata["vocabulary"]),
        tokenizer_sha256=metadata["tokenizer"]["sha256"],
        max_length=metadata["max_length"],
        num_sequences={split: splits[split]["sequences"] for split in SPLITS},
        lengths={
            split: {int(n): count for n, count in splits[split]["lengths"].items()}
            for split in SPLITS
        },
        mean_length=splits[TRAIN]["tokens"] / splits[TRAIN]["sequences"],
        shards={split: [directory / name for name in splits[split]["shards"]] for split in SPLITS},
        sets=[Share({split: splits[split]["sequences"] for split in SPLITS}, 1.0)],
        task=metadata.get("task"),
        metadata=metadata,
    )


def _check_shards(dataset: Dataset) -> None:
    """Raises UserError unless every file is there and the sequences are as many as they should."""
    for split, shards in dataset.shards.items():
        found = 0
        for shard in shards:
            lengths = lengths_path(shard)
            for path in (shard, lengths):
                if not path.is_file():
                    raise UserError(f"{path} is missing; prepare the dataset again")
            found += lengths.stat().st_size / 4
        if found != dataset.num_sequences[split]:
            raise UserError(
                f"{dataset.directory}: {found:.10g} {split} sequences, but {METADATA} says "
                f"{dataset.num_sequences[split]}; prepare the dataset again"
            )


def read_split(dataset: Dataset, split: str) -> Iterator[np.ndarray]:
    """Yields the tokens of a split's sequences in stored order, each ending in END."""
    return (sequence.tokens for sequence in read_sequences(dataset, split))


def read_sequences(dataset: Dataset, split: str, at_a_time: int = 256) -> Iterator[Sequence]:
    """Yields the sequences of a split in stored order."""
    reader = RecordReader(dataset.shards[split])
    for start in range(0, len(reader), at_a_time):
        yield from reader.read(list(range(start, min(start + at_a_time, len(reader)))))
