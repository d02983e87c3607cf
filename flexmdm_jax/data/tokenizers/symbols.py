"""A tokenizer for tasks: a list of symbols."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from flexmdm_jax.data.tokenizers.base import joined, spelled_alone
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import json_text
from flexmdm_jax.types import Vocabulary


class SymbolTokenizer:
    """Symbols without spaces in them, written one after another with a space between."""

    kind: ClassVar[str] = "symbols"
    FILE: ClassVar[str] = "symbols.json"

    def __init__(self, files: dict[str, bytes]):
        self._files = {self.FILE: files[self.FILE]}
        self._symbols = json.loads(files[self.FILE])
        if not _are_symbols(self._symbols):
            raise ValueError("expected a JSON list of different symbols without spaces in them")
        self._ids = {symbol: number for number, symbol in enumerate(self._symbols)}
        size = len(self._symbols)
        self.vocabulary = Vocabulary(size=size + 2, mask=size, end=size + 1)

    @classmethod
    def of(cls, symbols: Iterable[str]) -> "SymbolTokenizer":
        """Returns a tokenizer whose ids are the positions of the symbols."""
        return cls({cls.FILE: json_text(list(symbols)).encode()})

    def encode(self, text: str, *, first: bool = True) -> list[int]:
        """Returns the token ids of a text, the same wherever it stands.

        Raises:
          UserError: If a word of it is no symbol.
        """
        del first
        words = text.split()
        unknown = [word for word in words if word not in self._ids]
        if unknown:
            raise UserError(
                f"{unknown[0]!r} is no symbol of this task; write symbols with spaces between "
                f"them, such as {' '.join(self._symbols[:2])!r}"
            )
        return [self._ids[word] for word in words]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns encode() of every text, as arrays."""
        return [np.array(self.encode(text), np.int64) for text in texts]

    def ends(self, text: str, tokens: np.ndarray) -> np.ndarray:
        """Returns where in the text's UTF-8 bytes each token of encode(text) ends."""
        del text
        sizes = [len(self._symbols[token].encode()) for token in tokens.tolist()]
        return np.cumsum(sizes) + np.arange(len(sizes))

    def piece(self, token: int) -> bytes:
        """Returns a symbol without the spaces around it; b"" for ids that are no data."""
        return self._symbols[token].encode() if 0 <= token < len(self._symbols) else b""

    def spell(self, tokens: Iterable[int], *, mask: bytes = b"") -> list[bytes]:
        """Returns piece() of each token, or mask for MASK; spaces go to the symbols behind them."""
        words = spelled_alone(self, tokens, mask)
        first = next((number for number, word in enumerate(words) if word), None)
        return [b" " + word if word and n != first else word for n, word in enumerate(words)]

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids; ids that are no data are left out."""
        return joined(self.spell(tokens))

    def files(self) -> dict[str, bytes]:
        """Returns the files the tokenizer is made of, by name."""
        return self._files


def _are_symbols(values: Any) -> bool:
    """Returns whether these are texts that can be told apart with spaces between them."""
    if not isinstance(values, list):
        return False
    single = all(isinstance(value, str) and value.split() == [value] for value in values)
    return single and len(set(values)) == len(values)
