"""The tokenizer that needs no files: UTF-8 bytes."""

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from flexmdm_jax.data.tokenizers.base import data_ids
from flexmdm_jax.types import Vocabulary


class ByteTokenizer:
    """UTF-8 bytes: 256 data ids."""

    kind: ClassVar[str] = "bytes"

    def __init__(self, files: dict[str, bytes]):
        del files
        self.vocabulary = Vocabulary(size=258, mask=256, end=257)

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text."""
        return list(text.encode("utf-8"))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns encode() of every text, as arrays."""
        return [np.frombuffer(text.encode("utf-8"), np.uint8) for text in texts]

    def ends(self, text: str, tokens: np.ndarray) -> np.ndarray:
        """Returns where in the text's UTF-8 bytes each token of encode(text) ends."""
        del text
        return np.arange(1, len(tokens) + 1)

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids; ids that are no data are left out."""
        return bytes(data_ids(tokens, 256)).decode("utf-8", errors="replace")

    def files(self) -> dict[str, bytes]:
        """Returns the files the tokenizer is made of, by name."""
        return {}
