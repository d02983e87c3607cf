"""GPT-2's tokenizer, from its two published files."""

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from flexmdm_jax.data.tokenizers.base import data_ids
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
        alphabet = _gpt2_alphabet()
        pieces = {bytes(map(alphabet.__getitem__, token)): rank for token, rank in ranks.items()}
        self._encoding = tiktoken.Encoding(
            name="gpt2",
            pat_str=_GPT2_PATTERN,
            mergeable_ranks=pieces,
            special_tokens={self._SEPARATOR: self._separator},
        )
        self._widths = np.zeros(self._size, np.int64)
        self._widths[list(pieces.values())] = [len(piece) for piece in pieces]
        self.vocabulary = Vocabulary(size=self._size + 2, mask=self._size, end=self._size + 1)

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text."""
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

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids; ids that are no data are left out."""
        return self._encoding.decode(data_ids(tokens, self._size))

    def files(self) -> dict[str, bytes]:
        """Returns the files the tokenizer is made of, by name."""
        return self._files


# Calls of tiktoken cost more than most paragraphs.
_TEXTS_AT_A_TIME = 1024


def _gpt2_alphabet() -> dict[str, int]:
    """Returns the byte that each printable stand-in of GPT-2's vocabulary file means.

    Bytes that print stand for themselves; the others are numbered upwards from 256 (Radford et
    al., 2019).
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + number): byte for number, byte in enumerate(others)
    }
