"""The tokenizer that needs no files: UTF-8 bytes."""

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from flexmdm_jax.data.tokenizers.base import joined, spelled_alone
from flexmdm_jax.types import Vocabulary


class ByteTokenizer:
    """UTF-8 bytes: 256 data ids."""

    kind: ClassVar[str] = "bytes"

    def __init__(self, files: dict[str, bytes]):
        del files
        self.vocabulary = Vocabulary(size=258, mask=256, end=257)

    def encode(self, text: str, *, first: bool = True) -> list[int]:
        """Returns the token ids of a text, the same wherever it stands."""
        del first
        return list(text.encode("utf-8"))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns encode() of every text, as arrays."""
        return [np.frombuffer(text.encode("utf-8"), np.uint8) for text in texts]

    def ends(self, text: str, tokens: np.ndarray) -> np.ndarray:
        """Returns where in the text's UTF-8 bytes each token of encode(text) ends."""
        del text
        return np.arange(1, len(tokens) + 1)

    def piece(self, token: int) -> bytes:
        """Returns the byte that a token is; b"" for ids that are no data."""
        return bytes([token]) if 0 <= token < 256 else b""

    def spell(self, tokens: Iterable[int], *, mask: bytes = b"") -> list[bytes]:
        """Returns piece() of each token, or mask for MASK."""
        return spelled_alone(self, tokens, mask)

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids; ids that are no data are left out."""
        return joined(self.spell(tokens))

    def files(self) -> dict[str, bytes]:
        """Returns the files the tokenizer is made of, by name."""
        return {}
