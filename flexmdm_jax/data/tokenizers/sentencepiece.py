"""SentencePiece models, trained here or read from a file."""

import io
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from flexmdm_jax.data.tokenizers.base import data_ids
from flexmdm_jax.errors import UserError
from flexmdm_jax.types import Vocabulary


class SentencePieceTokenizer:
    """A SentencePiece model; MASK and END follow its own ids."""

    kind: ClassVar[str] = "sentencepiece"
    _MODEL: ClassVar[str] = "sentencepiece.model"

    def __init__(self, files: dict[str, bytes]):
        import sentencepiece

        self._model = files[self._MODEL]
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=self._model)
        size = self._processor.vocab_size()
        self.vocabulary = Vocabulary(size=size + 2, mask=size, end=size + 1)

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int) -> "SentencePieceTokenizer":
        """Returns a tokenizer trained on texts; its Vocabulary has vocabulary_size entries.

        Bytes are its fallback and nothing is normalised, so decoding is exact for any text.

        Raises:
          UserError: If the texts are too few for a vocabulary of that size.
        """
        import sentencepiece

        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                vocab_size=vocabulary_size - 2,
                model_type="bpe",
                byte_fallback=True,
                character_coverage=1.0,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                add_dummy_prefix=False,
                user_defined_symbols=["\n"],
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                max_sentence_length=1 << 20,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = str(error).splitlines()[-1]
            raise UserError(
                f"a SentencePiece vocabulary of {vocabulary_size} cannot be trained on this "
                f"corpus ({reason}); choose another size"
            ) from None
        return cls({cls._MODEL: model.getvalue()})

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text."""
        return self._processor.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns encode() of every text, as arrays."""
        encoded = self._processor.encode(list(texts), num_threads=1)
        return [np.asarray(tokens, np.uint32) for tokens in encoded]

    def ends(self, text: str, tokens: np.ndarray) -> np.ndarray:
        """Returns where in the text's UTF-8 bytes each token of encode(text) ends."""
        del tokens
        found = self._processor.encode(text, return_type="proto").pieces
        return np.asarray([piece.end for piece in found], np.int64)

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids; ids that are no data are left out."""
        return self._processor.decode(data_ids(tokens, self.vocabulary.size - 2))

    def files(self) -> dict[str, bytes]:
        """Returns the files the tokenizer is made of, by name."""
        return {self._MODEL: self._model}
