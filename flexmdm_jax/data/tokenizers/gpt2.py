"""GPT-2's tokenizer, from its two published files."""

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from flexmdm_jax.data.tokenizers import byte_level
from flexmdm_jax.data.tokenizers.base import joined, spelled_alone
from flexmdm_jax.types import Vocabulary

# How GPT-2 cuts text into words before merging bytes (Radford et al., 2019, encoder.py).
_GPT2_PATTERN = "|".join(
    (
        r"'(?:s|t|re|ve|m|ll|d)",
        r" ?\p{L}+",
        r" ?\p{N}+",
        r" ?[^\s\p{L}\p{N}]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


class GPT2Tokenizer:
    """GPT-2's byte-level BPE (tiktoken), from encoder.json and vocab.bpe; 50,257 data ids."""

    kind: ClassVar[str] = "gpt2"
    FILES: ClassVar[tuple[str, str]] = ("encoder.json", "vocab.bpe")
    _SEPARATOR: ClassVar[str] = "<|endoftext|>"

    def __init__(self, files: dict[str, bytes]):
        import tiktoken

        self._files = {name: files[name] for name in self.FILES}
        ranks = json.loads(files["encoder.json"])
        self._size = len(ranks)
        self._separator = ranks.pop(self._SEPARATOR)
        pieces = {byte_level.read(token): rank for token, rank in ranks.items()}
        self._encoding = tiktoken.Encoding(
            name="gpt2",
            pat_str=_GPT2_PATTERN,
            mergeable_ranks=pieces,
            special_tokens={self._SEPARATOR: self._separator},
        )
        self._widths = np.zeros(self._size, np.int64)
        self._widths[list(pieces.values())] = [len(piece) for piece in pieces]
        self._pieces = {rank: piece for piece, rank in pieces.items()}
        self._pieces[self._separator] = self._SEPARATOR.encode()
        self.vocabulary = Vocabulary(size=self._size + 2, mask=self._size, end=self._size + 1)

    def encode(self, text: str, *, first: bool = True) -> list[int]:
        """Returns the token ids of a text, the same wherever it stands."""
        del first
        return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns encode() of every text, as arrays."""
        arrays = []
        for start in range(0, len(texts), _TEXTS_AT_A_TIME):
            arrays += self._encode_joined(texts[start : start + _TEXTS_AT_A_TIME])
        return arrays

    def _encode_joined(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encodes texts in one call: a special token between two keeps them apart."""
        joined = self._SEPARATOR.join(texts)
        if joined.count(self._SEPARATOR) != len(texts) - 1:
            return [np.asarray(self.encode(text), np.uint32) for text in texts]
        tokens = self._encoding.encode_to_numpy(joined, allowed_special={self._SEPARATOR})
        (at,) = np.nonzero(tokens == self._separator)
        bounds = [-1, *at.tolist(), len(tokens)]
        return [tokens[a + 1 : b] for a, b in itertools.pairwise(bounds)]

    def ends(self, text: str, tokens: np.ndarray) -> np.ndarray:
        """Returns where in the text's UTF-8 bytes each token of encode(text) ends."""
        del text
        return np.cumsum(self._widths[tokens])

    def piece(self, token: int) -> bytes:
        """Returns the UTF-8 bytes that a token stands for; b"" for ids that are no data."""
        return self._pieces.get(token, b"")

    def spell(self, tokens: Iterable[int], *, mask: bytes = b"") -> list[bytes]:
        """Returns piece() of each token, or mask for MASK."""
        return spelled_alone(self, tokens, mask)

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids; ids that are no data are left out."""
        return joined(self.spell(tokens))

    def files(self) -> dict[str, bytes]:
        """Returns the files the tokenizer is made of, by name."""
        return self._files


# Calls of tiktoken cost more than most paragraphs.
_TEXTS_AT_A_TIME = 1024
