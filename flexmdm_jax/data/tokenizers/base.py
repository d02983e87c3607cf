"""What every tokenizer can do."""

import itertools
import re
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

    def encode(self, text: str, *, first: bool = True) -> list[int]:
        """Returns the token ids of a text.

        Args:
          text: Unicode, without surrogates.
          first: Whether it stands at the beginning. What stands behind something gets nothing put
            before it, such as SentencePiece's dummy prefix, and spaces there stay.
        """
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns encode() of every text, as arrays; faster than one by one."""
        ...

    def ends(self, text: str, tokens: np.ndarray) -> np.ndarray:
        """Returns where in the text's UTF-8 bytes each token of encode(text) ends, ascending.

        A token that is a part of a character may count as either end of it.
        """
        ...

    def piece(self, token: int) -> bytes:
        """Returns the UTF-8 bytes that a token stands for, maybe a part of a character.

        They are none for what is no data: MASK, END, tokens of control and ids without a token.
        """
        ...

    def spell(self, tokens: Iterable[int], *, mask: bytes = b"") -> list[bytes]:
        """Returns the UTF-8 bytes of each token where it stands; joined, they are the text.

        That is piece() of each, but for what a tokenizer adds or drops between tokens and at the
        ends: spaces between words that are no part of either, the dummy prefix.

        Args:
          tokens: Token ids.
          mask: What MASK is written as; it is a token of the text then.
        """
        ...

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids: spell(), joined; ids that are no data are left out.

        Bytes that are no characters become "�".
        """
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


def encode_at(
    tokenizer: Tokenizer, text: str, place: Callable[[], str], *, first: bool = True
) -> list[int]:
    """Returns the token ids of a text, as encode() has them.

    Raises:
      UserError: Naming its place if the tokenizer fails on it, or it is not Unicode.
    """
    try:
        # JSON may spell one, and not every library refuses it.
        if re.search("[\ud800-\udfff]", text):
            raise ValueError("it holds half of a surrogate pair")
        return tokenizer.encode(text, first=first)
    except BaseException as error:
        raise encoding_error(place(), failure_of(error)) from None


def joined(pieces: Iterable[bytes]) -> str:
    """Returns the text of UTF-8 bytes in pieces; what is no character becomes "�"."""
    return b"".join(pieces).decode(errors="replace")


def spelled_alone(tokenizer: Tokenizer, tokens: Iterable[int], mask: bytes) -> list[bytes]:
    """Returns spell() of tokens that stand for the same bytes everywhere."""
    hidden = tokenizer.vocabulary.mask
    return [mask if token == hidden else tokenizer.piece(int(token)) for token in tokens]


def piece_behind(tokenizer: Tokenizer, token: int) -> bytes:
    """Returns piece() of a token as it stands behind another: with the space put between words."""
    piece = tokenizer.piece(token)
    spaced = b" " + piece
    return spaced if piece and tokenizer.spell([token, token])[1] == spaced else piece


def shares(decode: Callable[[list[int]], str], tokens: list[int]) -> list[bytes]:
    """Returns what each token adds to decode(tokens), joined the same whatever decode() does.

    It is asked for the text up to each token, so this takes quadratic time.
    """
    whole = decode(tokens)
    ends = [0]
    for number in range(1, len(tokens)):
        ends.append(max(ends[-1], common_length(decode(tokens[:number]), whole)))
    bounds = [*ends[: len(tokens)], len(whole)]
    return [whole[start:stop].encode() for start, stop in itertools.pairwise(bounds)]


def common_length(one: str, other: str) -> int:
    """Returns how many characters two texts begin with alike."""
    differing = (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


def byte_offsets(text: str, offsets: Sequence[int]) -> np.ndarray:
    """Returns positions counted in characters as positions in UTF-8 bytes."""
    if text.isascii():
        return np.asarray(offsets, np.int64)
    sizes = [len(character.encode()) for character in text]
    return np.concatenate([[0], np.cumsum(sizes)])[np.asarray(offsets, np.int64)]
