"""What every tokenizer can do."""

from collections.abc import Iterable, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from flexmdm_jax.types import Vocabulary


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back; decode(encode(text)) == text."""

    kind: ClassVar[str]
    vocabulary: Vocabulary

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns encode() of every text, as arrays; faster than one by one."""
        ...

    def ends(self, text: str, tokens: np.ndarray) -> np.ndarray:
        """Returns where in the text's UTF-8 bytes each token of encode(text) ends, ascending.

        A token that is a part of a character may count as either end of it.
        """
        ...

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids; ids that are no data are left out."""
        ...

    def files(self) -> dict[str, bytes]:
        """Returns the files the tokenizer is made of, by name."""
        ...


def data_ids(tokens: Iterable[int], size: int) -> list[int]:
    """Returns the tokens below size."""
    return [int(token) for token in tokens if 0 <= token < size]


def byte_offsets(text: str, offsets: Sequence[int]) -> np.ndarray:
    """Returns positions counted in characters as positions in UTF-8 bytes."""
    if text.isascii():
        return np.asarray(offsets, np.int64)
    sizes = [len(character.encode()) for character in text]
    return np.concatenate([[0], np.cumsum(sizes)])[np.asarray(offsets, np.int64)]
