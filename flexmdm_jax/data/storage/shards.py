"""Shards on disk: ArrayRecord files of sequences, a file of their lengths beside each."""

import array
import collections
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from flexmdm_jax.errors import UserError, first_line

Tokens = np.ndarray | Iterable[int]
Flags = np.ndarray | Iterable[bool]
TRAIN, VALIDATION = "train", "validation"
SPLITS = (TRAIN, VALIDATION)
# Token ids need 31 bits; the highest bit of a stored word says that the token is fixed.
_FIXED = np.uint32(1 << 31)
# One record a group is what random access wants; records are too short to compress one by one.
_OPTIONS = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True)
class Sequence:
    """A stored sequence.

    Attributes:
      tokens: Token ids [n], the last of them END.
      fixed: True [n] where a token is given and never generated (a prompt); END counts as text.
    """

    tokens: np.ndarray
    fixed: np.ndarray


def encode_record(tokens: Tokens, fixed: Flags | None = None) -> bytes:
    """Returns a token sequence as stored: little-endian unsigned 32-bit integers.

    Two records joined are the record of the two sequences joined.

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


def shard_name(split: str, number: int, count: int) -> str:
    """Returns the file name of a shard."""
    return f"{split}-{number:05d}-of-{count:05d}.array_record"


def lengths_path(shard: pathlib.Path) -> pathlib.Path:
    """Returns the file beside a shard that holds the slots of each of its sequences, as uint32."""
    return shard.with_suffix(".lengths")


class ShardWriter:
    """Writes one shard of each split; use as a context, which removes them on an exception.

    Files have temporary names until close().
    """

    def __init__(self, directory: pathlib.Path, number: int, count: int, end: int):
        """Opens shard `number` of `count`; `end` closes every sequence."""
        from array_record.python import array_record_module

        self._end = encode_record([end])
        self._shards = {split: directory / shard_name(split, number, count) for split in SPLITS}
        self._writers = {
            split: array_record_module.ArrayRecordWriter(str(self._partial(path)), _OPTIONS)
            for split, path in self._shards.items()
        }
        self._slots = {split: array.array("I") for split in SPLITS}
        self._given = dict.fromkeys(SPLITS, 0)

    def write(self, split: str, tokens: Tokens, fixed: Flags | None = None) -> None:
        """Appends a sequence, which END must not close yet."""
        record = encode_record(tokens, fixed) + self._end
        self._writers[split].write(record)
        self._slots[split].append(len(record) // 4)
        self._given[split] += 0 if fixed is None else int(np.count_nonzero(fixed))

    def close(self) -> dict[str, dict[str, Any]]:
        """Finishes the files and returns statistics() of each split, and its shard's SHA-256."""
        hashes = {}
        for split, path in self._shards.items():
            self._writers.pop(split).close()
            hashes[split] = _sha256(self._partial(path))
            slots = np.frombuffer(self._slots[split], np.uint32).astype("<u4")
            self._partial(lengths_path(path)).write_bytes(slots.tobytes())
        for path in self._files():
            self._partial(path).replace(path)
        return {
            split: statistics(collections.Counter(self._slots[split]), self._given[split])
            | {"sha256": hashes[split]}
            for split in SPLITS
        }

    def _files(self) -> list[pathlib.Path]:
        return [path for shard in self._shards.values() for path in (shard, lengths_path(shard))]

    @staticmethod
    def _partial(path: pathlib.Path) -> pathlib.Path:
        return path.with_name(f".{path.name}.partial")

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is not None:
            for path in self._files():
                self._partial(path).unlink(missing_ok=True)


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def statistics(slots: collections.Counter, given: int | None) -> dict[str, Any]:
    """Returns what dataset.json says of sequences, of which slots[n] have n slots, END included.

    Args:
      slots: See above.
      given: How many of their tokens are fixed; None if that was not counted.
    """
    lengths = {n - 1: slots[n] for n in sorted(slots)}
    return {
        "sequences": slots.total(),
        "tokens": sum(length * count for length, count in lengths.items()),
        "lengths": {str(length): count for length, count in lengths.items()},
        "given": given,
    }


def add_statistics(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Returns statistics() of several shards together."""
    slots, given = collections.Counter(), 0
    for part in parts:
        # Shards that an older version wrote do not say.
        counted = part.get("given")
        given = None if given is None or counted is None else given + counted
        for length, count in part["lengths"].items():
            slots[int(length) + 1] += count
    return statistics(slots, given)


class RecordReader:
    """Reads records of several shards by number, in the order of the shards."""

    def __init__(self, shards: Iterable[pathlib.Path]):
        """Opens the shards.

        Raises:
          UserError: Naming the shard that cannot be read.
        """
        self._shards = [str(path) for path in shards]
        try:
            self._source = _open(self._shards)
        # ArrayRecord reports damage in many exception types.
        except Exception as error:
            raise _unreadable(next(filter(_is_damaged, self._shards), "a shard"), error) from None

    def __len__(self) -> int:
        return len(self._source)

    def read(self, numbers: list[int]) -> list[Sequence]:
        """Returns the sequences with these numbers.

        Raises:
          UserError: Naming the shard and the record that cannot be read.
        """
        try:
            return [decode_record(record) for record in self._source.__getitems__(numbers)]
        except Exception as error:
            if len(numbers) == 1:
                raise _unreadable(self._place(numbers[0]), error) from None
        return [sequence for number in numbers for sequence in self.read([number])]

    def _place(self, number: int) -> str:
        for shard in self._shards:
            size = len(_open([shard]))
            if number < size:
                return f"{shard}, record {number}"
            number -= size
        raise IndexError(number)


def _open(shards: list[str]):
    import grain

    source = grain.sources.ArrayRecordDataSource(shards)
    len(source)  # opens the files
    return source


def _is_damaged(shard: str) -> bool:
    try:
        _open([shard])
    except Exception:
        return True
    return False


def _unreadable(place: str, error: Exception) -> UserError:
    return UserError(f"{place}: unreadable ({first_line(error)}); prepare the dataset again")
