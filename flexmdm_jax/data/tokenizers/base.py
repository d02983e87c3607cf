"""What every tokenizer can do."""

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from flexmdm_jax.errors import UserError, first_line
from flexmdm_jax.types import Vocabulary


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back; where decode(encode(text)) != text, preparing says so."""

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


def failure_of(error: BaseException) -> str:
    """Returns what a tokenizer's exception says in a line; raises what is no tokenizer's, Ctrl-C.

    A panic of Rust, in which two libraries are written, is no Exception in Python.
    """
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return first_line(error)


def encoding_error(place: str, reason: str) -> UserError:
    """Returns the error of a text that a tokenizer fails on, the reason being failure_of()."""
    return UserError(
        f"{place}: the tokenizer cannot encode this text ({reason}); mend the text or leave it out"
    )


def encode_at(tokenizer: Tokenizer, text: str, place: Callable[[], str]) -> list[int]:
    """Returns the token ids of a text.

    Raises:
      UserError: Naming its place if the tokenizer fails on it.
    """
    try:
        return tokenizer.encode(text)
    except BaseException as error:
        raise encoding_error(place(), failure_of(error)) from None


def data_ids(tokens: Iterable[int], size: int) -> list[int]:
    """Returns the tokens below size."""
    return [int(token) for token in tokens if 0 <= token < size]


def byte_offsets(text: str, offsets: Sequence[int]) -> np.ndarray:
    """Returns positions counted in characters as positions in UTF-8 bytes."""
    if text.isascii():
        return np.asarray(offsets, np.int64)
    sizes = [len(character.encode()) for character in text]
    return np.concatenate([[0], np.cumsum(sizes)])[np.asarray(offsets, np.int64)]
