"""Tokenizers of Hugging Face: a folder with tokenizer.json, as LLaDA's checkpoint has it."""

import json
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from flexmdm_jax.data.tokenizers.base import byte_offsets
from flexmdm_jax.errors import UserError
from flexmdm_jax.types import Vocabulary


class HuggingFaceTokenizer:
    """A tokenizer.json; MASK and END are the model's own if config.json beside it names them.

    LLaDA's does: 126336 and 126081 of 126464 ids. Otherwise they follow the tokenizer's ids. Text
    that spells a special token is text. Decoding is exact where the tokenizer's own is: byte-level
    ones without a normaliser.
    """

    kind: ClassVar[str] = "hf"
    TOKENIZER: ClassVar[str] = "tokenizer.json"
    CONFIG: ClassVar[str] = "config.json"

    def __init__(self, files: dict[str, bytes]):
        import tokenizers

        self._files = {name: files[name] for name in (self.TOKENIZER, self.CONFIG) if name in files}
        try:
            description = json.loads(files[self.TOKENIZER])
            config = json.loads(files.get(self.CONFIG, b"{}"))
            self.vocabulary = _vocabulary(description, config)
            special = {self.vocabulary.mask, self.vocabulary.end}
            # Spelled out in a text they would become MASK, END or a turn of a chat.
            description["added_tokens"] = [
                token
                for token in description.get("added_tokens", [])
                if not token["special"] and token["id"] not in special
            ]
            description["post_processor"] = None
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(description))
        # The library raises bare exceptions.
        except Exception as error:
            raise UserError(f"{self.TOKENIZER} or {self.CONFIG} is unusable: {error}") from None

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns encode() of every text, as arrays."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, np.uint32) for encoding in encoded]

    def ends(self, text: str, tokens: np.ndarray) -> np.ndarray:
        """Returns where in the text's UTF-8 bytes each token of encode(text) ends."""
        del tokens
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return byte_offsets(text, [end for _, end in offsets])

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids; ids that are no data are left out."""
        no_data = {self.vocabulary.mask, self.vocabulary.end}
        return self._tokenizer.decode([int(token) for token in tokens if token not in no_data])

    def files(self) -> dict[str, bytes]:
        """Returns the files the tokenizer is made of, by name."""
        return self._files


def _vocabulary(description: dict, config: dict) -> Vocabulary:
    ids = [*description["model"]["vocab"].values()]
    ids += [token["id"] for token in description.get("added_tokens", [])]
    size = max(max(ids) + 1, config.get("vocab_size", 0))
    mask, end = config.get("mask_token_id"), config.get("eos_token_id")
    if mask is None or not isinstance(end, int):
        return Vocabulary(size=size + 2, mask=size, end=size + 1)
    return Vocabulary(size=size, mask=mask, end=end)
